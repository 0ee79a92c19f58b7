"""SQL of what model calls used."""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Iterator

import structlog

from kheish.core.clock import Clock
from kheish.core.messages import Usage
from kheish.core.problems import StoreUnreadable
from kheish.core.values import value_class
from kheish.engine import entries as e
from kheish.engine.budgets import Spent
from kheish.engine.entries import RouteRef
from kheish.engine.ports import Transition
from kheish.store.database import Database, Transaction
from kheish.store.rows import insertion

log = structlog.get_logger(__name__)

_HOUR_MS = 3_600_000
_ADD_TO_HOUR = insertion(
    "usage_by_hour AS total (route_id, model, hour, input_tokens, output_tokens, cost_usd)",
    "ON CONFLICT (route_id, model, hour) DO UPDATE SET input_tokens = total.input_tokens + excluded.input_tokens,"
    " output_tokens = total.output_tokens + excluded.output_tokens, cost_usd = total.cost_usd + excluded.cost_usd",
)
_OF_SESSION = """
SELECT CAST(input_tokens AS INTEGER) AS input_tokens, CAST(output_tokens AS INTEGER) AS output_tokens,
       CAST(cost_usd AS REAL) AS cost_usd
  FROM sessions WHERE session_id = :session_id
"""
_OF_ROUTES = """
SELECT CAST(route_id AS TEXT) AS route_id, CAST(model AS TEXT) AS model,
       CASE WHEN :for_ever THEN 0 ELSE hour END AS hour,
       SUM(CAST(input_tokens AS INTEGER)) AS input_tokens, SUM(CAST(output_tokens AS INTEGER)) AS output_tokens,
       SUM(CAST(cost_usd AS REAL)) AS cost_usd
  FROM usage_by_hour WHERE typeof(hour) = 'integer' GROUP BY 1, 2, 3
"""
_RECENT_SESSIONS = 1024
"""Sessions whose totals stay in memory; the others are read again."""
_NOTHING = Usage()


class UsageProjection:
    """Adds what each model call used to the hour of its route, in the commit that records it.

    What a session used is in its row, which others keep.
    """

    def apply(self, transaction: Transaction, transition: Transition) -> None:
        for used in _uses(transition):
            if used.route is not None:
                amounts = (used.amount.input_tokens, used.amount.output_tokens, used.amount.cost_usd)
                transaction.add(_ADD_TO_HOUR, ((used.route.route_id, used.route.model, used.hour, *amounts),))


@value_class(frozen=True, kw_only=True, slots=True)
class _Use:
    """What one model call used, of which route and when."""

    amount: Usage
    route: RouteRef | None
    hour: int


def _uses(transition: Transition) -> Iterator[_Use]:
    for recorded in transition.entries:
        entry = recorded.entry
        if recorded.run_id is None or not isinstance(entry, e.MODEL_CALLS) or entry.usage == _NOTHING:
            continue
        used = entry.usage
        counted = Usage(input_tokens=used.input_tokens, output_tokens=used.output_tokens, cost_usd=used.cost_usd)
        route = next((run.route for run in transition.runs if run.run_id == recorded.run_id), None)
        yield _Use(amount=counted, route=route, hour=recorded.at_ms // _HOUR_MS)


class _Window:
    """The hours of one route with one model, and their sum."""

    def __init__(self) -> None:
        self._hours: dict[int, Usage] = {}
        self._after = -1
        self._total = _NOTHING

    def add(self, hour: int, used: Usage) -> None:
        self._hours[hour] = self._hours.get(hour, _NOTHING) + used
        if hour > self._after:
            self._total += used

    def since(self, after: int) -> Usage:
        if after != self._after:
            # None is forgotten: a clock that was ahead comes back.
            self._after = after
            self._total = sum((used for hour, used in self._hours.items() if hour > after), _NOTHING)
        return self._total


class UsageLedger:
    """What sessions and routes have used so far: read once, then kept in step with what becomes durable.

    Only a session's own calls add to its total, and none is under way while it asks, so a total that is being read
    cannot change meanwhile. Those of routes are read at the start.
    """

    def __init__(self, *, database: Database, clock: Clock, period_hours: int) -> None:
        """``period_hours`` is how far back a route's usage counts; 0: since ever."""
        self._database = database
        self._clock = clock
        self._period_hours = period_hours
        self._routes: dict[tuple[str, str], _Window] = {}
        self._sessions: OrderedDict[str, Usage] = OrderedDict()

    def load(self, connection: sqlite3.Connection) -> None:
        """Read the totals of routes; called once, before anything is committed."""
        try:
            rows = connection.execute(_OF_ROUTES, {"for_ever": self._period_hours == 0}).fetchall()
        except sqlite3.Error as error:
            self._unreadable(error)
            return
        for row in rows:
            self._window(row["route_id"], row["model"]).add(row["hour"], _usage(row))

    def committed(self, transition: Transition) -> None:
        """Count what the calls of ``transition`` used."""
        for used in _uses(transition):
            known = self._sessions.get(transition.session_id)
            if known is not None:
                self._sessions[transition.session_id] = known + used.amount
            if used.route is not None:
                hour = used.hour if self._period_hours else 0
                self._window(used.route.route_id, used.route.model).add(hour, used.amount)

    async def spent(self, session_id: str | None, route: RouteRef) -> Spent:
        """Return the totals of a session, when one is named, and of a route with a model in the period."""
        window = self._routes.get((route.route_id, route.model))
        of_route = _NOTHING if window is None else window.since(self._after())
        of_session = _NOTHING if session_id is None else await self._of_session(session_id)
        return Spent(session=of_session, route=of_route)

    async def _of_session(self, session_id: str) -> Usage:
        known = self._sessions.get(session_id)
        if known is not None:
            self._sessions.move_to_end(session_id)
            return known

        def query(connection: sqlite3.Connection) -> Usage:
            return _usage(connection.execute(_OF_SESSION, {"session_id": session_id}).fetchone())

        try:
            self._sessions[session_id] = found = await self._database.read(query)
        except (sqlite3.Error, StoreUnreadable) as error:
            self._unreadable(error)
            return _NOTHING
        while len(self._sessions) > _RECENT_SESSIONS:
            self._sessions.popitem(last=False)
        return found

    def _window(self, route_id: str, model: str) -> _Window:
        return self._routes.setdefault((route_id, model), _Window())

    def _after(self) -> int:
        return self._clock.now_ms() // _HOUR_MS - self._period_hours if self._period_hours else -1

    def _unreadable(self, error: Exception) -> None:
        # A disk that cannot be read stops the run at its next commit; a budget is not the place to say so.
        log.warning("usage.unreadable", error=str(error))


def _usage(row: sqlite3.Row | None) -> Usage:
    if row is None:
        return _NOTHING
    return Usage(input_tokens=row["input_tokens"], output_tokens=row["output_tokens"], cost_usd=row["cost_usd"])
