"""Limits failures, never successes: a sliding window per kind of failure and address."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto

WINDOW_MS = 60_000
FAILURES_PER_WINDOW = 60
MAX_SAMPLES = 4096
"""Failures that are remembered over all buckets; the oldest are forgotten first."""

Bucket = tuple[str, str]
"""The failure's code and the client's address."""


class Verdict(Enum):
    """What a failure is to the limiter."""

    COUNTED = auto()
    LIMITED_NOW = auto()
    """The first one past the limit in this window."""
    LIMITED = auto()


@dataclass(slots=True)
class _Seen:
    at_ms: deque[int] = field(default_factory=deque)
    announced_at_ms: int | None = None


class FailureLimiter:
    """Counts failures; time is handed in."""

    def __init__(self) -> None:
        self._buckets: dict[Bucket, _Seen] = {}
        self._order: deque[tuple[int, Bucket]] = deque()

    def failed(self, bucket: Bucket, now_ms: int) -> Verdict:
        """Record one failure, or say that the bucket is full."""
        self._forget_before(now_ms - WINDOW_MS)
        seen = self._buckets.setdefault(bucket, _Seen())
        if len(seen.at_ms) < FAILURES_PER_WINDOW:
            seen.at_ms.append(now_ms)
            self._order.append((now_ms, bucket))
            if len(self._order) > MAX_SAMPLES:
                self._forget_oldest()
            return Verdict.COUNTED
        if seen.announced_at_ms is not None and seen.announced_at_ms > now_ms - WINDOW_MS:
            return Verdict.LIMITED
        seen.announced_at_ms = now_ms
        return Verdict.LIMITED_NOW

    def _forget_before(self, floor_ms: int) -> None:
        # A clock that was set back makes older samples look new; they leave with the bound on their number.
        while self._order and self._order[0][0] <= floor_ms:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        _, bucket = self._order.popleft()
        seen = self._buckets[bucket]
        seen.at_ms.popleft()
        if not seen.at_ms:
            del self._buckets[bucket]
