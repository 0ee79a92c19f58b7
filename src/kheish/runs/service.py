"""The rules of runs once they exist: find, list, watch, cancel."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping, Sequence

import orjson

from kheish.core.jsonvalue import JsonObject
from kheish.core.problems import Problem
from kheish.engine.engine import Engine
from kheish.engine.entries import InputAccepted, Recorded, RunStatus, StopRequested
from kheish.engine.journal import DatabaseJournal
from kheish.engine.ports import Proposal
from kheish.engine.state import SessionState
from kheish.http.paging import InvalidCursor, Paging, envelope
from kheish.runs import health, store
from kheish.runs.health import LiveRun
from kheish.runs.views import queued_position, run_events, run_view
from kheish.store.database import Database

_MAX_UNPAGED = 10_000
"""A bare list stays within memory; the newest runs are kept."""
_ORDERS = {False: "submitted_at_ms_asc,run_id_asc", True: "submitted_at_ms_desc,run_id_desc"}
_FIRST, _LAST = -(2**63), 2**63 - 1
_CURSOR = re.compile(r"[0-9-][0-9]{19}:run-(-?[0-9]{1,19})")


class RunNotFound(Problem):
    """No run has this id."""

    domain, code, status = "runs", "run_not_found", 404

    def __init__(self, run_id: str) -> None:
        super().__init__(f"No run has the id {run_id!r}.")


class RunStateConflict(Problem):
    """The run's or session's state does not allow this."""

    domain, code, status = "runs", "run_state_conflict", 409


class RunLedger:
    """Every run there is, as clients see it. Reads only; needs no engine."""

    def __init__(self, *, database: Database, journal: DatabaseJournal) -> None:
        self._database = database
        self._journal = journal

    async def view(self, run_id: str) -> dict[str, object]:
        """RunView.

        Raises:
            RunNotFound: no run has the id.
        """

        def query(reader: sqlite3.Connection) -> dict[str, object] | None:
            row = store.get(reader, run_id)
            return None if row is None else _with_outputs(reader, [row])[0]

        found = await self._database.read(query)
        if found is None:
            raise RunNotFound(run_id)
        return found

    async def session_of(self, run_id: str) -> str:
        """The session a run belongs to.

        Raises:
            RunNotFound: no run has the id.
        """
        return str((await self._row(run_id))["session_id"])

    async def list(self, paging: Paging, *, session_id: str | None, priority_active: bool, descending: bool) -> object:
        """Runs: the newest as an ascending list, live ones first, or a page."""
        if paging.paged:
            return await self._page(paging, session_id=session_id, descending=descending)

        def query(reader: sqlite3.Connection) -> Sequence[dict[str, object]]:
            if priority_active and paging.limit is not None:
                rows = store.live_first(reader, session_id=session_id, limit=paging.limit)
            else:
                rows = store.newest(reader, session_id=session_id, limit=paging.limit or _MAX_UNPAGED)
            return _with_outputs(reader, rows)

        return await self._database.read(query)

    async def events(self, run_id: str) -> Sequence[JsonObject]:
        """RunEventEntry list: the run's part of the journal.

        Raises:
            RunNotFound: no run has the id.
        """
        row = await self._row(run_id)
        journal = await self._journal.load_run(row["session_id"], run_id, row["first_offset"], row["last_offset"])
        return run_events(journal, agent_id=row["agent_id"], accepted_position=row["accepted_position"])

    async def journal_of(self, run_id: str) -> tuple[str, Sequence[Recorded]]:
        """The run's session and its journal entries."""
        row = await self._row(run_id)
        session_id = str(row["session_id"])
        return session_id, await self._journal.load_run(session_id, run_id, row["first_offset"], row["last_offset"])

    async def waiting(self, status: RunStatus) -> Sequence[dict[str, object]]:
        """Runs that wait for a human: ids, kind and the pending requests."""

        def query(reader: sqlite3.Connection) -> Sequence[dict[str, object]]:
            return [_waiting_fields(row) for row in store.waiting(reader, status)]

        return await self._database.read(query)

    async def status(self, *, now_ms: int, queued_lag_ms: int, stale_ms: int) -> JsonObject:
        """The `runs` block of the status snapshot."""

        def query(reader: sqlite3.Connection) -> JsonObject:
            live = [
                LiveRun(
                    run_id=row["run_id"],
                    status=row["status"],
                    submitted_at_ms=row["submitted_at_ms"],
                    updated_at_ms=row["updated_at_ms"],
                    approvals=len(orjson.loads(row["pending_approvals"] or "[]")),
                    questions=len(orjson.loads(row["pending_questions"] or "[]")),
                )
                for row in store.live(reader)
            ]
            return health.block(
                live,
                counts=store.counts(reader),
                deepest_queue=store.deepest_queue(reader),
                now_ms=now_ms,
                queued_lag_ms=queued_lag_ms,
                stale_ms=stale_ms,
            )

        return await self._database.read(query)

    # For session views, inside their own read

    def pending(self, connection: sqlite3.Connection, session_id: str) -> tuple[str | None, str | None]:
        return store.pending_of_session(connection, session_id)

    def outputs(self, connection: sqlite3.Connection, session_id: str, limit: int) -> Sequence[str]:
        return store.outputs_of_session(connection, session_id, limit)

    async def session_events(self, session_id: str, journal: Sequence[Recorded]) -> Sequence[JsonObject]:
        """Run events of a whole session in the order of its journal."""
        agents: dict[str, str] = {}
        found: list[JsonObject] = []
        positions = await self._database.read(lambda reader: store.accepted_positions(reader, session_id))
        for recorded in journal:
            if recorded.run_id is None:
                continue
            if isinstance(recorded.entry, InputAccepted):
                agents[recorded.run_id] = recorded.entry.agent_id
            found += run_events(
                (recorded,),
                agent_id=agents.get(recorded.run_id, ""),
                accepted_position=positions.get(recorded.run_id, 1),
            )
        return found

    async def _row(self, run_id: str) -> sqlite3.Row:
        row = await self._database.read(lambda reader: store.get(reader, run_id))
        if row is None:
            raise RunNotFound(run_id)
        return row

    async def _page(self, paging: Paging, *, session_id: str | None, descending: bool) -> object:
        after = (_LAST if descending else _FIRST) if paging.cursor is None else _number(paging.cursor)
        limit = paging.page_limit

        def query(reader: sqlite3.Connection) -> tuple[Sequence[dict[str, object]], Sequence[int], int]:
            rows = store.page(reader, session_id=session_id, descending=descending, after=after, limit=limit + 1)
            return _with_outputs(reader, rows), [row["number"] for row in rows], store.count(reader, session_id)

        views, numbers, total = await self._database.read(query)

        def key(last: Mapping[str, object]) -> str:
            # The number, for an id can be damaged: the walk goes on from there all the same.
            return f"{last['submitted_at_ms']:020d}:run-{numbers[limit - 1]}"

        return envelope(views, paging=paging, total=total, order=_ORDERS[descending], key=key)


class RunControl:
    """Stops runs."""

    def __init__(self, *, engine: Engine, ledger: RunLedger) -> None:
        self._engine = engine
        self._ledger = ledger

    async def cancel(self, run_id: str) -> dict[str, object]:
        """Stop this run from any live status; a run that is over is returned as it is.

        Raises:
            RunNotFound: no run has the id.
        """
        session_id = await self._ledger.session_of(run_id)
        await self._engine.transition(session_id, lambda state, now_ms: stop(state, run_id))
        await self._engine.stopped(session_id, run_id)
        return await self._ledger.view(run_id)


def stop(state: SessionState, run_id: str) -> Sequence[Proposal]:
    """The rule of a stop aimed at one run; a stop that is under way is not repeated."""
    run = state.run(run_id)
    if run is None or run.stop is not None:
        return ()
    return (Proposal(entry=StopRequested(status=RunStatus.CANCELLED), run_id=run_id),)


def live_view(state: SessionState, run_id: str) -> dict[str, object]:
    """RunView straight from the engine's state, for the answer to the request that changed it."""
    run = state.run(run_id)
    assert run is not None
    return {**run_view(run, queued_position(run, state))}


def _with_outputs(reader: sqlite3.Connection, rows: Sequence[sqlite3.Row]) -> Sequence[dict[str, object]]:
    outputs = store.outputs_of(reader, rows) if rows else {}
    views = []
    for row in rows:
        view = store.run_fields(row)
        if (found := outputs.get(row["run_id"])) is not None:
            view["outputs"] = found
        views.append(view)
    return views


def _waiting_fields(row: sqlite3.Row) -> dict[str, object]:
    fields: dict[str, object] = {name: row[name] for name in ("run_id", "session_id", "agent_id", "kind")}
    fields["approvals"] = orjson.loads(row["pending_approvals"] or "[]")
    fields["questions"] = orjson.loads(row["pending_questions"] or "[]")
    return fields


def _number(cursor: str) -> int:
    """Of the last run the client has seen: the time before it orders nothing, for a clock can be set back."""
    found = _CURSOR.fullmatch(cursor)
    if found is None:
        raise InvalidCursor
    return max(_FIRST, min(int(found[1]), _LAST))
