"""One timer service for everything that waits for time."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable

from kheish.core.clock import Clock

_LONGEST_SLEEP_S = 60.0
"""The wall clock may be set while we sleep: look at it again at least this often."""


class TimerService:
    """Due times per session. Nothing here is durable: the due time itself is in the journal."""

    def __init__(self, *, clock: Clock, wake: Callable[[str], None]) -> None:
        self._clock = clock
        self._wake = wake
        self._due: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []
        self._changed = asyncio.Event()

    def set(self, session_id: str, due_ms: int) -> None:
        """Wake the session at ``due_ms`` (Unix milliseconds), replacing its earlier due time."""
        self._due[session_id] = due_ms
        heapq.heappush(self._heap, (due_ms, session_id))
        self._changed.set()

    def clear(self, session_id: str) -> None:
        self._due.pop(session_id, None)

    def fire_due(self) -> float:
        """Wake what is due; return the seconds until the next due time (at most a minute)."""
        now = self._clock.now_ms()
        while self._heap:
            due_ms, session_id = self._heap[0]
            if self._due.get(session_id) != due_ms:
                heapq.heappop(self._heap)
            elif due_ms <= now:
                heapq.heappop(self._heap)
                del self._due[session_id]
                self._wake(session_id)
            else:
                return min((due_ms - now) / 1000, _LONGEST_SLEEP_S)
        return _LONGEST_SLEEP_S

    async def serve(self, wait: Callable[[Awaitable[bool], float], Awaitable[None]] | None = None) -> None:
        """Run until cancelled; a child of the supervisor."""
        pause = wait or _wait
        while True:
            self._changed.clear()
            await pause(self._changed.wait(), self.fire_due())


async def _wait(changed: Awaitable[bool], seconds: float) -> None:
    # Not wait_for: when the event comes together with a cancellation, it swallows the cancellation (Python 3.11).
    try:
        async with asyncio.timeout(seconds):
            await changed
    except TimeoutError:
        return
