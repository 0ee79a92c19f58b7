"""SQL of what model calls used."""

from __future__ import annotations

import sqlite3

import structlog

from kheish.core.clock import Clock
from kheish.core.messages import Usage
from kheish.core.problems import StoreUnreadable
from kheish.engine import entries as e
from kheish.engine.budgets import Spent
from kheish.engine.entries import Entry, RouteRef
from kheish.engine.ports import Transition
from kheish.store.database import Database, Transaction

log = structlog.get_logger(__name__)

_HOUR_MS = 3_600_000
_ADD_TO_SESSION = """
INSERT INTO usage_by_session (session_id, input_tokens, output_tokens, cost_usd)
VALUES (:session_id, :input_tokens, :output_tokens, :cost_usd)
ON CONFLICT (session_id) DO UPDATE SET input_tokens = usage_by_session.input_tokens + excluded.input_tokens,
                                       output_tokens = usage_by_session.output_tokens + excluded.output_tokens,
                                       cost_usd = usage_by_session.cost_usd + excluded.cost_usd
"""
_ADD_TO_HOUR = """
INSERT INTO usage_by_hour (route_id, model, hour, input_tokens, output_tokens, cost_usd)
VALUES (:route_id, :model, :hour, :input_tokens, :output_tokens, :cost_usd)
ON CONFLICT (route_id, model, hour) DO UPDATE SET input_tokens = usage_by_hour.input_tokens + excluded.input_tokens,
                                                  output_tokens = usage_by_hour.output_tokens + excluded.output_tokens,
                                                  cost_usd = usage_by_hour.cost_usd + excluded.cost_usd
"""
_OF_SESSION = """
SELECT CAST(input_tokens AS INTEGER) AS input_tokens, CAST(output_tokens AS INTEGER) AS output_tokens,
       CAST(cost_usd AS REAL) AS cost_usd
  FROM usage_by_session WHERE session_id = :session_id
"""
_OF_ROUTE = """
SELECT COALESCE(SUM(CAST(input_tokens AS INTEGER)), 0) AS input_tokens,
       COALESCE(SUM(CAST(output_tokens AS INTEGER)), 0) AS output_tokens,
       COALESCE(SUM(CAST(cost_usd AS REAL)), 0.0) AS cost_usd
  FROM usage_by_hour WHERE route_id = :route_id AND model = :model AND hour > :after
"""


class UsageProjection:
    """Adds what each model call used in the commit that records it."""

    def apply(self, transaction: Transaction, transition: Transition) -> None:
        for recorded in transition.entries:
            used = used_by(recorded.entry)
            if used == Usage() or recorded.run_id is None:
                continue
            amounts = {
                "input_tokens": used.input_tokens,
                "output_tokens": used.output_tokens,
                "cost_usd": used.cost_usd,
            }
            transaction.connection.execute(_ADD_TO_SESSION, {"session_id": transition.session_id, **amounts})
            route = next((run.route for run in transition.runs if run.run_id == recorded.run_id), None)
            if route is not None:
                key = {"route_id": route.route_id, "model": route.model, "hour": recorded.at_ms // _HOUR_MS}
                transaction.connection.execute(_ADD_TO_HOUR, {**key, **amounts})


def used_by(entry: Entry) -> Usage:
    """What the model call behind an entry used; nothing when there was none."""
    return entry.usage if isinstance(entry, e.ModelReplied | e.ModelFailed | e.Compacted) else Usage()


class UsageLedger:
    """What sessions and routes have used so far, read from their rows."""

    def __init__(self, *, database: Database, clock: Clock, period_hours: int) -> None:
        """``period_hours`` is how far back a route's usage counts; 0: since ever."""
        self._database = database
        self._clock = clock
        self._period_hours = period_hours

    async def spent(self, session_id: str, route: RouteRef) -> Spent:
        """Return the totals of a session, and of a route with a model in the period."""
        after = self._clock.now_ms() // _HOUR_MS - self._period_hours if self._period_hours else -1
        fields = {"session_id": session_id, "route_id": route.route_id, "model": route.model, "after": after}

        def query(connection: sqlite3.Connection) -> Spent:
            session = connection.execute(_OF_SESSION, fields).fetchone()
            return Spent(session=_usage(session), route=_usage(connection.execute(_OF_ROUTE, fields).fetchone()))

        try:
            return await self._database.read(query)
        except (sqlite3.Error, StoreUnreadable) as error:
            # A disk that cannot be read stops the run at its next commit; a budget is not the place to say so.
            log.warning("usage.unreadable", error=str(error))
            return Spent()


def _usage(row: sqlite3.Row | None) -> Usage:
    if row is None:
        return Usage()
    return Usage(input_tokens=row["input_tokens"], output_tokens=row["output_tokens"], cost_usd=row["cost_usd"])
