"""Dataclasses that nobody may change, made as fast as those that may be changed.

The constructor of a frozen dataclass sets each field through `object.__setattr__`, for its own refuses. That takes
several times as long, and a run makes some two hundred values: it is a twentieth to a tenth of what the run costs. So
`value_class` is `dataclass` to the type checker, which allows no change; while the program runs, nothing looks.
Likewise `changed` is `dataclasses.replace` without its look at what each field is.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

__all__ = ["changed", "value_class"]

if TYPE_CHECKING:
    from dataclasses import dataclass as value_class
    from dataclasses import replace as changed
else:

    def value_class(*, frozen, eq=True, **options):
        """Make a dataclass whose objects have the hash of a frozen one."""

        def made(kind):
            own = vars(kind)
            # A class that compares in its own way has None there, which is no hash of its own.
            hashed = frozen and eq and (own.get("__hash__") is None if "__eq__" in own else "__hash__" not in own)
            return dataclasses.dataclass(kind, eq=eq, unsafe_hash=hashed, **options)

        return made

    def changed(value, **changes):
        """Return a copy with other values in some fields.

        Raises:
            TypeError: there is no such field, or an object of this class is more than what it was made of.
        """
        kind = type(value)
        copy = object.__new__(kind)
        for name in _given(kind):
            setattr(copy, name, changes.pop(name) if name in changes else getattr(value, name))
        if changes:
            raise TypeError(f"{kind.__name__} cannot be copied with {', '.join(map(repr, changes))} changed")
        return copy

    @functools.cache
    def _given(kind):
        """The names of the fields of a class whose objects are all that they were given."""
        fields = dataclasses.fields(kind)
        if hasattr(kind, "__post_init__") or not all(field.init for field in fields):
            raise TypeError(f"{kind.__name__} works something out when it is made")
        return tuple(field.name for field in fields)
