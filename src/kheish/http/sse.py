"""Server-sent events: frames, heartbeats, cursors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Annotated, Any, Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from kheish.core.problems import Problem
from kheish.http.arguments import Header, Query

MEDIA_TYPE = "text/event-stream"
HEARTBEAT_SECONDS = 10.0
"""Of silence; proxies and clients tell a quiet stream from a dead one by it."""
_HEARTBEAT = b'event: heartbeat\ndata: {"type":"heartbeat"}\n\n'
_MAX_CURSOR = 2**63 - 1
"""Ids are SQLite integers; a larger cursor is clamped to the newest id anyway."""


class InvalidEventCursor(Problem):
    """The event cursor must be a decimal event id."""

    domain, code, status = "events", "invalid_event_cursor", 400


class Event(Protocol):
    """What is sent to every watcher."""

    @property
    def frame(self) -> bytes:
        """One server-sent event, its empty line included."""
        ...


def event_cursor(
    cursor: Annotated[str | None, Query(description="Deliver only events after this id")] = None,
    last_event_id: Annotated[str | None, Header(name="Last-Event-ID")] = None,
) -> int | None:
    """The larger of `cursor` and `Last-Event-ID`; None means from now on.

    Raises:
        InvalidEventCursor: one of them is not a decimal number.
    """
    given = [_parsed(text.strip()) for text in (cursor, last_event_id) if text is not None and text.strip()]
    return max(given, default=None)


def _parsed(text: str) -> int:
    if not text.isascii() or not text.isdecimal():
        raise InvalidEventCursor(f"The event cursor {text[:40]!r} is not a decimal event id.")
    return min(int(text[:20]), _MAX_CURSOR)


class Batches(Protocol):
    """Events as they come: each batch is what was there at the time."""

    def __aiter__(self) -> AsyncIterator[Sequence[Event]]: ...
    async def __anext__(self) -> Sequence[Event]: ...
    def nudge(self) -> None:
        """If nothing is there, let the iteration have an empty batch now."""
        ...


class Source(Protocol):
    """Where a stream's events come from; entering it begins the watch."""

    async def __aenter__(self) -> Batches: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def close(self) -> None:
        """End the iteration after what is already waiting."""
        ...


class Streams:
    """The open streams, so that a drain can end them cleanly."""

    def __init__(self) -> None:
        self._open: set[Source] = set()
        self._closed = False

    @asynccontextmanager
    async def watched(self, source: Source) -> AsyncIterator[Batches]:
        """Enter ``source``; it ends by itself when the streams are closed."""
        self._open.add(source)
        if self._closed:
            source.close()
        try:
            async with source as batches:
                yield batches
        finally:
            self._open.discard(source)

    def respond(self, source: Source) -> EventStream:
        """A response that sends the events of ``source``."""
        return EventStream(self.watched(source))

    def close(self) -> None:
        """End every stream, and each new one at once."""
        self._closed = True
        for source in tuple(self._open):
            source.close()


class EventStream(Response):
    """Sends events until the client leaves or the source ends."""

    media_type = MEDIA_TYPE

    def __init__(self, source: AbstractAsyncContextManager[Batches]) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        # A stream has no length, and the base class wrote one for its empty body.
        del self.headers["content-length"]
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._source as batches:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            # A comment at once: the client knows that the stream stands before the first event.
            await send({"type": "http.response.body", "body": b": open\n\n", "more_body": True})
            pump = asyncio.create_task(_pump(batches, send), name="sse-pump")
            left = asyncio.create_task(_disconnected(receive), name="sse-disconnect")
            try:
                await asyncio.wait({pump, left}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                left.cancel()
                pump.cancel()
                results = await asyncio.gather(pump, left, return_exceptions=True)
            if isinstance(results[0], Exception) and not isinstance(results[0], OSError):
                raise results[0]


class _Silence:
    """Calls ``broken`` whenever nothing was said for so long. One timer a stream: it looks back when it fires."""

    def __init__(self, broken: Callable[[], None]) -> None:
        self._broken = broken
        self._loop = asyncio.get_running_loop()
        self._spoken = self._loop.time()
        self._timer = self._loop.call_later(HEARTBEAT_SECONDS, self._look)

    def end(self) -> None:
        self._spoken = self._loop.time()

    def close(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        left = self._spoken + HEARTBEAT_SECONDS - self._loop.time()
        if left <= 0:
            self._broken()
            left = HEARTBEAT_SECONDS
        self._timer = self._loop.call_later(left, self._look)


async def _pump(batches: Batches, send: Send) -> None:
    silence = _Silence(batches.nudge)
    try:
        async for batch in batches:
            frames = [event.frame for event in batch]
            body = frames[0] if len(frames) == 1 else b"".join(frames) or _HEARTBEAT
            await send({"type": "http.response.body", "body": body, "more_body": True})
            silence.end()
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    finally:
        silence.close()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


STREAM_RESPONSE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events: `id` (decimal, absent on live-only events), `event`, `data` (JSON)",
        "content": {MEDIA_TYPE: {"schema": {"type": "string"}}},
    }
}
"""OpenAPI response of a stream."""
