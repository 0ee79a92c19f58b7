"""What the event feed carries."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class FeedEvent:
    """One change a client can watch. `id` is None for live-only events, which are never stored."""

    id: int | None
    type: str
    session_id: str | None
    run_id: str | None
    data: bytes
    """The event as one line of JSON."""
    frame: bytes = field(init=False, repr=False, compare=False)
    """The event as one server-sent frame, the same bytes for every watcher; without an id it moves no cursor."""

    def __post_init__(self) -> None:
        head = b"" if self.id is None else b"id: %d\n" % self.id
        object.__setattr__(self, "frame", b"%sevent: %s\ndata: %s\n\n" % (head, self.type.encode(), self.data))
