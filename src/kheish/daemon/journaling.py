"""The journal as the daemon keeps it: the tables that commits keep in step, and who is told of them afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from kheish.broker.store import CredentialsProjection
from kheish.core.clock import Clock
from kheish.core.values import value_class
from kheish.engine.journal import DatabaseJournal
from kheish.engine.observing import ObservedJournal
from kheish.engine.ports import Projection
from kheish.external_actions.store import TrailProjection
from kheish.external_actions.trail import Trail
from kheish.runs import store as runs_store
from kheish.runs.store import RunsProjection
from kheish.sessions.recent import RecentSessions
from kheish.sessions.store import SessionsProjection
from kheish.store.database import SqliteDatabase
from kheish.store.feed import Feed
from kheish.telemetry.recorder import Recorder
from kheish.tools.runtime import ToolRuntime
from kheish.usage.store import UsageLedger, UsageProjection

if TYPE_CHECKING:
    from kheish.telemetry.span_queue import SpanQueue
    from kheish.telemetry.tracer import Tracer


@value_class(frozen=True, kw_only=True, slots=True)
class Journaling:
    """What is written of all sessions, and what is known of it without reading it again."""

    journal: DatabaseJournal
    observed: ObservedJournal
    """The same journal, with whoever wants to know of each commit."""
    shown: RecentSessions
    spending: UsageLedger
    counters: CollectorRegistry
    tracer: Tracer | None

    async def end(self, timeout_s: float) -> None:
        """Nothing is recorded any more: send the last spans, for at most ``timeout_s`` seconds."""
        self.observed.catch_up()
        if self.tracer is not None:
            await self.tracer.close(timeout_s)


def open_journaling(
    database: SqliteDatabase,
    *,
    feed: Feed,
    trail: Trail,
    tools: ToolRuntime,
    spans: SpanQueue | None,
    clock: Clock,
    budget_period_hours: int,
) -> Journaling:
    """Before the first commit."""
    sessions = SessionsProjection(feed)
    journal = DatabaseJournal(database, projections(feed, sessions, trail, tools.acts_outside))
    shown = RecentSessions(runs_store.outputs_in, sessions.row_of)
    spending = UsageLedger(database=database, clock=clock, period_hours=budget_period_hours)
    database.run_offline(spending.load)
    counters = CollectorRegistry()
    recorder = Recorder(counters, tool_names=tools.names)
    tracer = None if spans is None else _tracer(spans, clock, tools)
    onlookers = (recorder,) if tracer is None else (recorder, tracer)
    observed = ObservedJournal(journal, (shown, spending), onlookers=onlookers)
    return Journaling(
        journal=journal, observed=observed, shown=shown, spending=spending, counters=counters, tracer=tracer
    )


def projections(
    feed: Feed, sessions: SessionsProjection, trail: Trail, acts_outside: Callable[[str], bool]
) -> tuple[Projection, ...]:
    """Every table that is kept in step with the journal."""
    signed = TrailProjection(trail.key, trail.keys, acts_outside)
    return (RunsProjection(feed), sessions, UsageProjection(), CredentialsProjection(), signed)


def _tracer(spans: SpanQueue, clock: Clock, tools: ToolRuntime) -> Tracer:
    from kheish.telemetry.tracer import Tracer  # late: most daemons trace nothing

    return Tracer(spans, clock=clock, tool_names=tools.names)
