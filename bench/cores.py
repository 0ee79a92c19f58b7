"""One processor core for what is measured, another for its load: where the system can, and there are two."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_BIND = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])}); os.execv(sys.argv[2], sys.argv[2:])"
"""Before the program begins: threads it starts are bound as well. The process id stays."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cores:
    """Who runs where; None where nothing is bound."""

    measured: int | None
    load: int | None

    @classmethod
    def of_this_machine(cls) -> Cores:
        if not hasattr(os, "sched_getaffinity"):
            return cls(measured=None, load=None)
        usable = sorted(os.sched_getaffinity(0))
        return cls(measured=usable[0], load=usable[-1]) if len(usable) > 1 else cls(measured=None, load=None)

    @property
    def note(self) -> str:
        """How a figure's reader is told."""
        if self.measured is None:
            return "not bound to one core: the system cannot, or has one"
        return f"bound to core {self.measured}, its load to core {self.load}"


def bound(command: list[str], core: int | None) -> list[str]:
    """The command, bound to this core from its first instruction."""
    return command if core is None else [sys.executable, "-c", _BIND, str(core), *command]


@contextmanager
def this_process(core: int | None) -> Iterator[None]:
    """Bind the calling thread, and what it starts, to this core meanwhile."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
