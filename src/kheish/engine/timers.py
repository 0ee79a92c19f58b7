"""One timer service for everything that waits for time."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable

from kheish.core.clock import Clock

_LONGEST_SLEEP_S = 60.0
"""The wall clock may be set while we sleep: look at it again at least this often."""


class TimerService:
    """Waits of sessions. Nothing here is durable: the due time itself is in the journal.

    A wait is a length of time. It is over early when the machine's clock jumps ahead (the machine slept), and never
    lasts longer because the clock was set back.
    """

    def __init__(self, *, clock: Clock, wake: Callable[[str, int], None]) -> None:
        self._clock = clock
        self._wake = wake
        self._looked = (clock.now_ms(), clock.elapsed_ms())
        self._due: dict[str, tuple[int, int]] = {}
        """Per session: when the wait is over here, and the due time it stands for."""
        self._heap: list[tuple[int, str]] = []
        self._changed = asyncio.Event()

    def set(self, session_id: str, due_ms: int, *, in_ms: int) -> None:
        """Wake the session in ``in_ms`` and tell it that it is ``due_ms``; replaces a wait for another due time."""
        over = self._now() + in_ms
        known = self._due.get(session_id)
        if known is not None and known[1] == due_ms:
            # A session whose clock was set back finds the same time left whenever it looks.
            over = min(over, known[0])
        self._due[session_id] = (over, due_ms)
        heapq.heappush(self._heap, (over, session_id))
        self._changed.set()

    def clear(self, session_id: str) -> None:
        self._due.pop(session_id, None)

    def fire_due(self) -> float:
        """Wake what is due; return the seconds until the next due time (at most a minute)."""
        now = self._now()
        while self._heap:
            over, session_id = self._heap[0]
            known, due_ms = self._due.get(session_id, (None, 0))
            if known != over:
                heapq.heappop(self._heap)
            elif over <= now:
                heapq.heappop(self._heap)
                del self._due[session_id]
                self._wake(session_id, due_ms)
            else:
                return min((over - now) / 1000, _LONGEST_SLEEP_S)
        return _LONGEST_SLEEP_S

    def _now(self) -> int:
        """The wall clock, but never earlier than the last look and the time that has passed since."""
        before, elapsed_before = self._looked
        elapsed = self._clock.elapsed_ms()
        now = max(self._clock.now_ms(), before + elapsed - elapsed_before)
        self._looked = (now, elapsed)
        return now

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
