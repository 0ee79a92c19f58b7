"""What the event feed carries."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class FeedEvent:
    """One change a client can watch. `id` is None for live-only events, which are never stored."""

    id: int | None
    type: str
    session_id: str | None
    run_id: str | None
    data: bytes
    """The event as one line of JSON, encoded once for every subscriber."""
