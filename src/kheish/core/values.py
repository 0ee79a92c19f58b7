"""Dataclasses that nobody may change, made as fast as those that may be changed.

The constructor of a frozen dataclass sets each field through `object.__setattr__`, for its own refuses. That takes
several times as long, and a run makes some two hundred values: it is a twentieth to a tenth of what the run costs. So
`value_class` is `dataclass` to the type checker, which allows no change; while the program runs, nothing looks.
Likewise `changed` is `dataclasses.replace` without its look at what each field is.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

__all__ = ["changed", "value_class"]

if TYPE_CHECKING:
    from dataclasses import dataclass as value_class
    from dataclasses import replace as changed
else:

    def value_class(*, frozen, eq=True, **options):
        """Make a dataclass whose objects have the hash of a frozen one."""

        def made(kind):
            hashed = frozen and eq and "__hash__" not in vars(kind)
            return dataclasses.dataclass(kind, eq=eq, unsafe_hash=hashed, **options)

        return made

    def changed(value, **changes):
        """Return a copy with other values in some fields. Its class has no `__post_init__`."""
        kind = type(value)
        if hasattr(kind, "__post_init__"):
            raise TypeError(f"{kind.__name__} works something out when it is made")
        copy = object.__new__(kind)
        for name in kind.__dataclass_fields__:
            setattr(copy, name, changes.pop(name) if name in changes else getattr(value, name))
        if changes:
            raise TypeError(f"{kind.__name__} cannot be copied with {', '.join(map(repr, changes))} changed")
        return copy
