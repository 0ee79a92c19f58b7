"""The observer that makes spans of what was committed."""

from __future__ import annotations

from collections.abc import Collection

from kheish.core.clock import Clock
from kheish.engine.ports import Transition
from kheish.telemetry.activity import Activity
from kheish.telemetry.span_queue import SpanQueue
from kheish.telemetry.spans import SpanBuilder


class Tracer:
    """An observer of the engine that sends spans."""

    def __init__(self, queue: SpanQueue, *, clock: Clock, tool_names: Collection[str]) -> None:
        self._queue = queue
        self._clock = clock
        self._activity = Activity()
        self._builder = SpanBuilder(tool_names=tool_names)

    def committed(self, transition: Transition) -> None:
        """Take one durable transition."""
        for fact in self._activity.read(transition):
            self._queue.offer(self._builder.take(fact))

    async def close(self, timeout_s: float) -> None:
        """Send what is there, open spans included, for at most ``timeout_s`` seconds."""
        self._queue.offer(self._builder.give_up(self._clock.now_ms()))
        await self._queue.close(timeout_s)
