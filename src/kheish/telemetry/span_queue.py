"""Spans on their way out: a bounded queue and one thread, so that the event loop never waits for a collector."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Protocol

import structlog

from kheish.telemetry.snapshot import SpanCounts
from kheish.telemetry.spans import Span

log = structlog.get_logger(__name__)

_CAPACITY = 4096
"""Spans; more are dropped and counted while the collector is slow or away."""
_BATCH = 512
_PAUSE_S = 2.0
"""Between batches that are not full."""


class SpanSink(Protocol):
    """Sends spans to a collector; called in the queue's own thread."""

    def send(self, spans: Sequence[Span]) -> bool:
        """Return whether the collector took them; may block for as long as its own timeout says."""
        ...

    def close(self) -> None:
        """Called once everything is sent; or earlier, in another thread, to make a `send` in progress return soon."""
        ...


class SpanQueue:
    """Takes spans from the event loop and never blocks it."""

    def __init__(self, sink: SpanSink) -> None:
        self._sink = sink
        self._waiting: deque[Span] = deque()
        self._awake = threading.Event()
        self._closing = False
        self._refused = 0
        self._exported = self._failed = 0
        """Of the thread; the line above of the event loop: nobody else writes them."""
        self._told = False
        self._ended: asyncio.Future[None] | None = None
        # A daemon thread: a collector that does not answer must not keep the process alive.
        self._thread = threading.Thread(target=self._serve, name="kheish-spans", daemon=True)
        self._thread.start()

    @property
    def counts(self) -> SpanCounts:
        return SpanCounts(exported=self._exported, dropped=self._refused + self._failed)

    def offer(self, spans: Iterable[Span]) -> None:
        """Queue ``spans``; what does not fit is dropped."""
        for span in spans:
            if self._closing or len(self._waiting) >= _CAPACITY:
                self._refused += 1
            else:
                self._waiting.append(span)
        if len(self._waiting) >= _BATCH:
            self._awake.set()

    async def close(self, timeout_s: float) -> None:
        """Send what waits, for at most ``timeout_s`` seconds; then give up."""
        if self._closing:
            return
        loop = asyncio.get_running_loop()
        ended = self._ended = loop.create_future()
        self._closing = True
        self._awake.set()
        try:
            async with asyncio.timeout(timeout_s):
                await ended
        except TimeoutError:
            log.warning("tracing.spans_lost", spans=len(self._waiting))
            self._sink.close()

    def _serve(self) -> None:
        while not self._closing:
            self._awake.wait(_PAUSE_S)
            self._awake.clear()
            self._send_all()
        self._send_all()
        self._sink.close()
        ended = self._ended
        assert ended is not None
        try:
            ended.get_loop().call_soon_threadsafe(_settle, ended)
        except RuntimeError:
            # The loop is closed: nobody waits any more.
            return

    def _send_all(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            failure = self._send(batch)
            if failure is None:
                self._exported += len(batch)
            else:
                self._failed += len(batch)
                if not self._told:
                    log.error("tracing.export_failed", error=failure)
            # Once per outage: the metrics count what is lost.
            self._told = failure is not None

    def _send(self, batch: list[Span]) -> str | None:
        """None when it was taken, else why not."""
        try:
            return None if self._sink.send(batch) else "the collector refused the spans or did not answer"
        # The exporter is not ours; whatever it raises costs this batch and not the thread.
        except Exception as error:
            return type(error).__name__


def _settle(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)
