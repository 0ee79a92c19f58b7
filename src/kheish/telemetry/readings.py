"""Reads what a scrape shows from the rooms that know it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

import structlog

from kheish.core.clock import Clock
from kheish.core.problems import Problem
from kheish.engine.engine import Engine
from kheish.engine.observing import ObservedJournal
from kheish.runs.service import RunLedger
from kheish.sessions.service import Sessions
from kheish.store.database import Database
from kheish.store.feed import Feed
from kheish.telemetry.snapshot import Snapshot, SpanCounts

log = structlog.get_logger(__name__)


class Readings:
    """Takes snapshots; the run counts are those of `GET /v1/status`."""

    def __init__(
        self,
        *,
        ledger: RunLedger,
        sessions: Sessions,
        engine: Engine,
        journal: ObservedJournal,
        database: Database,
        feed: Feed,
        clock: Clock,
        ready: Callable[[], bool],
        spans: Callable[[], SpanCounts | None],
    ) -> None:
        self._ledger = ledger
        self._sessions = sessions
        self._engine = engine
        self._journal = journal
        self._database = database
        self._feed = feed
        self._clock = clock
        self._ready = ready
        self._spans = spans

    async def take(self) -> Snapshot:
        """What is true now. A store that cannot be read takes only its own families away."""
        runs, sessions = None, 0
        try:
            # Without thresholds: who scrapes sets limits of their own.
            runs = await self._ledger.status(now_ms=self._clock.now_ms(), queued_lag_ms=0, stale_ms=0)
            sessions = await self._sessions.count()
        except (Problem, sqlite3.Error) as error:
            log.error("metrics.store_unreadable", error=type(error).__name__)
        self._journal.catch_up()
        return Snapshot(
            runs=runs,
            sessions=sessions,
            active_sessions=self._engine.active_sessions,
            ready=self._ready(),
            events=self._feed.status(),
            writes=self._database.statistics,
            recovered=self._engine.recovered,
            observer_failures=self._journal.observer_failures,
            spans=self._spans(),
        )
