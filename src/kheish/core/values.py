"""Dataclasses that nobody may change, made as fast as those that may be changed.

The constructor of a frozen dataclass sets each field through `object.__setattr__`, for its own refuses. That takes
several times as long, and a run makes some two hundred values: it is a twentieth to a tenth of what the run costs. So
`value_class` is `dataclass` to the type checker, which allows no change; while the program runs, nothing looks.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import dataclass as value_class
else:

    def value_class(*, frozen, eq=True, **options):
        """Make a dataclass whose objects have the hash of a frozen one."""

        def made(kind):
            hashed = frozen and eq and "__hash__" not in vars(kind)
            return dataclasses.dataclass(kind, eq=eq, unsafe_hash=hashed, **options)

        return made


__all__ = ["value_class"]
