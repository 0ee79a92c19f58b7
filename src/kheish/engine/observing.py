"""A journal whose commits others may watch, without a say in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog

from kheish.engine.entries import Recorded
from kheish.engine.ports import Journal, Observer, Transition
from kheish.store.database import Transaction

log = structlog.get_logger(__name__)

_LOGGED_FAILURES = 10
"""Of each observer: one that fails fails with every commit, and the log is for people."""


class ObservedJournal:
    """Hands every transition to its observers once it is durable."""

    def __init__(self, journal: Journal, observers: Sequence[Observer]) -> None:
        self._journal = journal
        self._observers = tuple(observers)
        self._failures = [0] * len(self._observers)

    @property
    def observer_failures(self) -> int:
        """Transitions that an observer could not take, since start."""
        return sum(self._failures)

    async def append(self, transition: Transition, *, also: Callable[[Transaction], None] | None = None) -> None:
        await self._journal.append(transition, also=also)
        for index, observer in enumerate(self._observers):
            try:
                observer.committed(transition)
            # Observers are bystanders: what breaks in one must not reach the run it looked at.
            except Exception:
                self._failures[index] += 1
                if self._failures[index] <= _LOGGED_FAILURES:
                    log.exception("observer.failed", observer=type(observer).__name__)

    async def load(self, session_id: str) -> Sequence[Recorded]:
        return await self._journal.load(session_id)
