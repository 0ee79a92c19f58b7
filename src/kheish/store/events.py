"""What the event feed carries."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(kw_only=True, slots=True)
class Change:
    """A change a client can watch, on its way into a commit: it has no id yet. Not frozen, as a `FeedEvent`."""

    type: str
    session_id: str | None
    run_id: str | None
    data: bytes
    """The event as one line of JSON."""


@dataclass(kw_only=True, slots=True)
class FeedEvent:
    """One change a client can watch. `id` is None for live-only events, which are never stored.

    Nobody changes one. It is not frozen because making a frozen value takes several times as long, and one is made for
    every token that is watched.
    """

    id: int | None
    type: str
    session_id: str | None
    run_id: str | None
    data: bytes
    """The event as one line of JSON."""
    _frame: bytes | None = field(init=False, repr=False, compare=False, default=None)

    @property
    def frame(self) -> bytes:
        """The event as one server-sent frame, the same bytes for every watcher; without an id it moves no cursor."""
        if (made := self._frame) is None:
            head = b"" if self.id is None else b"id: %d\n" % self.id
            made = self._frame = b"%sevent: %s\ndata: %s\n\n" % (head, self.type.encode(), self.data)
        return made


class EventLog(Protocol):
    """Where the changes of commits go."""

    def store(self, connection: sqlite3.Connection, changes: Sequence[Change]) -> list[FeedEvent]:
        """Write the changes of one commit, in order, in the writer's thread; returns them with their ids."""
        ...

    def stored(self) -> None:
        """The commit of what was stored last is durable; called in the writer's thread."""
        ...

    def publish(self, events: list[FeedEvent]) -> None:
        """Called on the event loop, in id order, once the commit of ``events`` is durable."""
        ...
