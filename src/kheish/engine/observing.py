"""A journal whose commits others may watch, without a say in them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

import structlog

from kheish.engine.entries import Recorded
from kheish.engine.ports import Also, Journal, Meanwhile, Observer, Transition

log = structlog.get_logger(__name__)

_LOGGED_FAILURES = 10
"""Of each observer: one that fails fails with every commit, and the log is for people."""
_LATER_S = 0.1
"""Nobody waits for them: they are told of some commits at once, while nothing of theirs holds up a run."""


class ObservedJournal:
    """Hands every transition to its observers once it is durable."""

    def __init__(self, journal: Journal, observers: Sequence[Observer], *, onlookers: Sequence[Observer] = ()) -> None:
        """``observers`` know of a commit before its run goes on, ``onlookers`` a little later, some at once."""
        self._journal = journal
        self._observers = tuple(_Told(observer) for observer in observers)
        self._onlookers = tuple(_Told(observer) for observer in onlookers)
        self._untold: deque[Transition] = deque()

    @property
    def observer_failures(self) -> int:
        """Transitions that an observer could not take, since start."""
        return sum(told.failures for told in (*self._observers, *self._onlookers))

    async def append(
        self, transition: Transition, *, also: Also | None = None, meanwhile: Meanwhile | None = None
    ) -> None:
        await self._journal.append(transition, also=also, meanwhile=meanwhile)
        for told in self._observers:
            told.take(transition)
        if self._onlookers:
            if not self._untold:
                asyncio.get_running_loop().call_later(_LATER_S, self.catch_up)
            self._untold.append(transition)

    def catch_up(self) -> None:
        """Tell the onlookers now what they have not been told yet."""
        while self._untold:
            transition = self._untold.popleft()
            for told in self._onlookers:
                told.take(transition)

    async def load(self, session_id: str) -> Sequence[Recorded]:
        return await self._journal.load(session_id)


class _Told:
    """An observer, and how often it could not take what it was told."""

    __slots__ = ("_observer", "failures")

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self.failures = 0

    def take(self, transition: Transition) -> None:
        try:
            self._observer.committed(transition)
        # Observers are bystanders: what breaks in one must not reach the run it looked at.
        except Exception:
            self.failures += 1
            if self.failures <= _LOGGED_FAILURES:
                log.exception("observer.failed", observer=type(self._observer).__name__)
