"""How a stream is kept up: where to take it up again, when to give up, what its text is. No I/O."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kheish.sdk.connection import Connection
from kheish.sdk.errors import KheishError, StreamBroken
from kheish.sdk.jsonvalue import JsonObject
from kheish.sdk.results import is_over
from kheish.sdk.sse import MEDIA_TYPE, Decoder, Event
from kheish.sdk.wire import Call, as_nothing, query, run_path, session_path

if TYPE_CHECKING:
    from kheish.sdk.types import RunView

IDLE_SECONDS = 35.0
"""The daemon sends a heartbeat every 10 s; silence for longer than this is a dead connection."""
_STABLE_SECONDS = 5.0
"""A connection that lived this long was a working one."""
_FIRST_DELAY_SECONDS = 0.1
_MAX_DELAY_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Watched:
    """What is streamed, and from where on."""

    path: str
    scope: str
    """global, session or run."""
    cursor: int | None = None
    """Deliver only events after this id; 0 is everything still kept, None from now on."""
    filters: Mapping[str, str] = field(default_factory=dict)
    opened: Callable[[], object] | None = None
    """Called whenever a connection stands."""


def everything(cursor: int | None, session_id: str | None, run_id: str | None) -> Watched:
    """The global stream, or what a filter leaves of it."""
    scope = "run" if run_id is not None else "session" if session_id is not None else "global"
    filters = query({"session_id": session_id, "run_id": run_id})
    return Watched(path="/v1/events/stream", scope=scope, cursor=cursor, filters=filters)


def session(session_id: str, cursor: int | None, opened: Callable[[], object] | None = None) -> Watched:
    return Watched(path=session_path(session_id, "stream"), scope="session", cursor=cursor, opened=opened)


def run(run_id: str, cursor: int | None) -> Watched:
    return Watched(path=run_path(run_id, "stream"), scope="run", cursor=cursor)


class Subscription:
    """One stream over as many connections as it takes."""

    def __init__(self, watched: Watched, connection: Connection) -> None:
        self._watched = watched
        self._grace = connection.grace_seconds
        self._cursor = watched.cursor
        self._resumes = False
        self._decoder = Decoder()
        self._delay = _FIRST_DELAY_SECONDS
        self._opened = 0.0
        self._failing_since: float | None = None

    def call(self) -> Call[None]:
        """The request of the next connection."""
        cursor = None if self._cursor is None else str(self._cursor)
        # The header says where to go on; before the first event there is only what the caller gave.
        given = {"cursor": cursor} if cursor is not None and not self._resumes else {}
        return Call(
            method="GET",
            path=self._watched.path,
            read=as_nothing,
            params={**self._watched.filters, **given},
            accept=MEDIA_TYPE,
            last_event_id=cursor if self._resumes else None,
        )

    def opened(self) -> Iterator[Event]:
        """Note that a connection stands; yields a gap when events may have passed unseen between two connections."""
        self._decoder = Decoder()
        self._opened = time.monotonic()
        if self._watched.opened is not None:
            self._watched.opened()
        if self._failing_since is not None and self._cursor is None:
            data: JsonObject = {
                "type": "stream_gap",
                "skipped": 0,
                "reason": "reconnected",
                "skipped_is_estimate": True,
            }
            yield Event(type="stream_gap", data={**data, "scope": self._watched.scope})

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The events ``chunk`` completes, heartbeats among them.

        Raises:
            StreamBroken: the bytes are no events, or one is too large.
        """
        for event in self._decoder.feed(chunk):
            self._working()
            if event.id is not None:
                self._cursor = max(event.id, self._cursor or 0)
                self._resumes = True
            yield event

    def lost(self, error: KheishError | None) -> float:
        """Seconds until the next attempt, after the connection ended or could not be made.

        Raises:
            KheishError: it has been failing for too long.
        """
        now = time.monotonic()
        if self._opened and now - self._opened >= _STABLE_SECONDS:
            self._working()
        self._opened = 0.0
        self._resumes = self._cursor is not None
        if self._failing_since is None:
            self._failing_since = now
        if now - self._failing_since > self._grace:
            raise error or StreamBroken("the daemon ends this stream again and again")
        delay = self._delay
        self._delay = min(delay * 2, _MAX_DELAY_SECONDS)
        return delay

    def _working(self) -> None:
        self._delay = _FIRST_DELAY_SECONDS
        self._failing_since = None


def after_gap(run_view: RunView) -> Event:
    """What a gap may have hidden: the run as it is now."""
    return Event(type="run_updated", data={"type": "run_updated", "run": run_view.raw})


def ends_run(event: Event) -> bool:
    """Whether the run of this stream is over with this event."""
    found = event.run
    return found is not None and is_over(found)


class TextAssembler:
    """Turns a run's events into its text, whole at the end even where pieces were missed."""

    def __init__(self) -> None:
        self._shown = ""
        self._turn: object = None
        self.complete = False

    def feed(self, event: Event) -> str:
        """The text to show next; often empty."""
        if event.type == "output_delta":
            return self._delta(event)
        if event.type == "output_reset":
            return self._break()
        output = event.data.get("output")
        if event.type == "output" and isinstance(output, dict) and output.get("source_kind") == "assistant_text":
            return self._whole(event.text or "")
        return ""

    def finish(self, run_view: RunView) -> str:
        """What is still missing of the run's answer."""
        answers = [output.content for output in run_view.outputs if output.source_kind == "assistant_text"]
        return self._whole(answers[-1]) if answers and not self.complete else ""

    def _delta(self, event: Event) -> str:
        turn, text = event.data.get("turn"), event.text or ""
        broken = "" if turn == self._turn else self._break()
        self._turn = turn
        self._shown += text
        return broken + text

    def _break(self) -> str:
        shown, self._shown = self._shown, ""
        return "\n" if shown else ""

    def _whole(self, content: str) -> str:
        self.complete = True
        if content.startswith(self._shown):
            return content[len(self._shown) :]
        return self._break() + content
