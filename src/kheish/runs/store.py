"""SQL of runs, their outputs and their idempotency keys."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import orjson

from kheish.core.jsonvalue import JsonObject, JsonValue, encode
from kheish.core.values import value_class
from kheish.engine import entries as e
from kheish.engine.entries import RunStatus
from kheish.engine.ports import Transition
from kheish.engine.state import RunState, SessionState, accept
from kheish.runs.views import output_record, queued_position, run_view, traces
from kheish.store.database import Transaction
from kheish.store.feed import Feed
from kheish.store.rows import change, insertion

_CHANGING = (
    "kind",
    "status",
    "updated_at_ms",
    "started_at_ms",
    "finished_at_ms",
    "last_offset",
    "request",
    "pending_approvals",
    "pending_questions",
    "due_at_ms",
    "usage",
    "error",
)
"""While a run goes on; `live` does not, so that its index is left alone."""
_CHANGES = ", ".join(f"{name} = new.{name}" for name in _CHANGING)
_INSERT = insertion(
    "runs (run_id, number, session_id, agent_id, submitted_at_ms, accepted_position, first_offset, input_metadata, "
    f"{', '.join(_CHANGING)}, live)"
)
_GO_ON = change("runs", "run_id", _CHANGING, _CHANGES)
_END = change("runs", "run_id", _CHANGING, f"{_CHANGES}, live = 0")
_INSERT_ANSWER = insertion("outputs (session_id, run_id, call_id, position, body)", "ON CONFLICT DO NOTHING")
_INSERT_OUTPUT = """
INSERT INTO outputs (session_id, run_id, call_id, position, body)
SELECT ?1, ?2, ?3, ?4, ?5
 WHERE NOT EXISTS (
           SELECT 1 FROM outputs WHERE session_id = ?1 AND run_id = ?2 AND call_id = ?3 AND position BETWEEN ?6 AND ?4
       )
"""
_VIEW = """
SELECT *, CASE WHEN status = 'queued' THEN (
           SELECT COUNT(*) FROM runs AS ahead
            WHERE ahead.session_id = runs.session_id AND ahead.status = 'queued' AND ahead.number <= runs.number
       ) END AS queued_position
  FROM sound_runs AS runs
"""
_GET = _VIEW + " WHERE run_id = :run_id"
_NEWEST = _VIEW + " ORDER BY number DESC LIMIT :limit"
_NEWEST_OF_SESSION = _VIEW + " WHERE session_id = :session_id ORDER BY number DESC LIMIT :limit"
_BY_LIVENESS = _VIEW + " WHERE live = :live ORDER BY updated_at_ms DESC, submitted_at_ms DESC LIMIT :limit"
_BY_LIVENESS_OF_SESSION = (
    _VIEW + " WHERE session_id = :session_id AND live = :live"
    " ORDER BY updated_at_ms DESC, submitted_at_ms DESC LIMIT :limit"
)
_AFTER = "number > :after ORDER BY number LIMIT :limit"
_BEFORE = "number < :after ORDER BY number DESC LIMIT :limit"
_PAGE_ASC = _VIEW + " WHERE " + _AFTER
_PAGE_DESC = _VIEW + " WHERE " + _BEFORE
_PAGE_ASC_OF_SESSION = _VIEW + " WHERE session_id = :session_id AND " + _AFTER
_PAGE_DESC_OF_SESSION = _VIEW + " WHERE session_id = :session_id AND " + _BEFORE
_COUNT = "SELECT COUNT(*) AS total FROM runs"
_COUNT_OF_SESSION = "SELECT COUNT(*) AS total FROM runs WHERE session_id = :session_id"
_OUTPUTS = """
SELECT outputs.run_id, outputs.body FROM json_each(:places) AS place
 CROSS JOIN sound_outputs AS outputs
         ON outputs.session_id = json_extract(place.value, '$[0]')
            AND outputs.position BETWEEN json_extract(place.value, '$[1]') AND json_extract(place.value, '$[2]')
 WHERE outputs.run_id IN (SELECT value FROM json_each(:run_ids)) ORDER BY outputs.position
"""
_OUTPUTS_OF_SESSION = """
SELECT body FROM sound_outputs WHERE session_id = :session_id ORDER BY position DESC LIMIT :limit
"""
# The plus keeps SQLite from going through all runs in order when it can go through the live ones.
_WAITING = """
SELECT run_id, session_id, agent_id, kind, pending_approvals, pending_questions FROM sound_runs AS runs
 WHERE live = 1 AND status = :status ORDER BY +session_id, number
"""
_PENDING_OF_SESSION = """
SELECT pending_approvals, pending_questions FROM sound_runs AS runs
 WHERE live = 1 AND session_id = :session_id AND status IN ('waiting_for_approval', 'waiting_for_user_question')
"""
_ACCEPTED_POSITIONS = "SELECT run_id, accepted_position FROM sound_runs WHERE session_id = :session_id"
_LIVE_SESSIONS = "SELECT DISTINCT session_id FROM runs WHERE live = 1 AND typeof(session_id) = 'text'"
_LAST_NUMBER = "SELECT COALESCE(MAX(number), 0) AS number FROM runs"
_COUNT_ENDED_BEFORE = """
SELECT COUNT(*) AS total FROM runs
 WHERE live = 0 AND finished_at_ms <= :cutoff_ms AND (:session_id IS NULL OR session_id = :session_id)
"""
_COUNTS = """
SELECT status, COUNT(*) AS runs FROM runs WHERE live = 1 GROUP BY status
 UNION ALL SELECT status, COUNT(*) AS runs FROM runs WHERE live = 0 GROUP BY status
"""
_DEEPEST_QUEUE = """
SELECT COUNT(*) AS depth FROM runs WHERE status = 'queued' GROUP BY session_id ORDER BY depth DESC LIMIT 1
"""
# The plus keeps SQLite from going through all runs in order when it can go through the live ones.
_LIVE = """
SELECT run_id, status, submitted_at_ms, updated_at_ms, pending_approvals, pending_questions
  FROM sound_runs AS runs WHERE live = 1
 ORDER BY +number
"""
_FIND_KEY = "SELECT run_id, fingerprint FROM idempotency WHERE scope = :scope AND key_hash = :key_hash"
_INSERT_KEY = """
INSERT INTO idempotency (scope, key_hash, fingerprint, run_id, at_ms)
VALUES (:scope, :key_hash, :fingerprint, :run_id, :at_ms)
"""
_BIND = "INSERT INTO binding_keys (binding_key, session_id) VALUES (:key, :session_id) ON CONFLICT DO NOTHING"
_BOUND_TO = "SELECT session_id FROM binding_keys WHERE binding_key = :key"


@value_class(frozen=True, kw_only=True, slots=True)
class UsedKey:
    """An idempotency key and what it stands for."""

    run_id: str
    fingerprint: str


class RunsProjection:
    """Keeps the runs and outputs tables in step with the journal and tells the event feed what changed."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def apply(self, transaction: Transaction, transition: Transition) -> None:
        session = transition.session
        accepted = _accepted(transition)
        views = {run.run_id: run_view(run, queued_position(run, session)) for run in transition.runs}
        for run in transition.runs:
            changing, over = _changing(run, views[run.run_id]), run.status.terminal
            if run.run_id in accepted:
                unchanging = _unchanging(run, views[run.run_id], session)
                transaction.add(_INSERT, ((*unchanging, *changing, not over),))
            else:
                transaction.add(_END if over else _GO_ON, ((run.run_id, *changing),))
        self._tell_accepted(transaction, transition, accepted)
        runs = {run.run_id: run for run in transition.runs}
        for recorded in transition.entries:
            if recorded.run_id is not None:
                self._tell_entry(transaction, recorded, runs.get(recorded.run_id))
        for run in transition.runs:
            if run.status is not RunStatus.QUEUED:
                self._publish(transaction, "run_updated", run.session_id, run.run_id, {"run": views[run.run_id]})

    def _tell_accepted(self, transaction: Transaction, transition: Transition, accepted: dict[str, RunState]) -> None:
        """Every run is seen queued once, also when it starts in the commit of its acceptance."""
        for run in accepted.values():
            view = run_view(run, _accepted_position(run, transition.session))
            self._publish(transaction, "run_updated", run.session_id, run.run_id, {"run": view})

    def _tell_entry(self, transaction: Transaction, recorded: e.Recorded, run: RunState | None) -> None:
        session_id, run_id = recorded.session_id, recorded.run_id or ""
        first = 0 if run is None else run.first_offset
        for call_id, record in output_record(session_id, run_id, recorded.entry):
            row = (session_id, run_id, call_id, recorded.offset, encode(record).decode())
            if not call_id:
                transaction.add(_INSERT_ANSWER, (row,))
            elif not transaction.connection.execute(_INSERT_OUTPUT, (*row, first)).rowcount:
                # A call that ran again after a restart: its output is there and was told.
                continue
            self._publish(transaction, "output", session_id, run_id, {"output": record})
        for trace in traces(recorded, "" if run is None else run.agent_id):
            self._publish(transaction, "trace", session_id, run_id, {"trace": trace})

    def _publish(
        self, transaction: Transaction, kind: str, session_id: str, run_id: str, data: dict[str, JsonValue]
    ) -> None:
        self._feed.append(transaction, type=kind, session_id=session_id, run_id=run_id, data={"type": kind, **data})


def _accepted(transition: Transition) -> dict[str, RunState]:
    """The runs this transition created, as they were right after acceptance."""
    return {
        recorded.run_id: accept(recorded, recorded.entry)
        for recorded in transition.entries
        if isinstance(recorded.entry, e.InputAccepted) and recorded.run_id is not None
    }


def _accepted_position(run: RunState, session: SessionState) -> int:
    for position, queued in enumerate(session.queue, start=1):
        if queued.run_id == run.run_id:
            return position
    return 1


def _unchanging(run: RunState, view: JsonObject, session: SessionState) -> tuple[object, ...]:
    return (
        run.run_id,
        int(run.run_id.rpartition("-")[2]),
        run.session_id,
        run.agent_id,
        run.submitted_at_ms,
        _accepted_position(run, session),
        run.first_offset,
        _json(view.get("input_metadata")),
    )


def _changing(run: RunState, view: JsonObject) -> tuple[object, ...]:
    return (
        run.kind,
        view["status"],
        run.updated_at_ms,
        run.started_at_ms,
        run.finished_at_ms,
        run.last_offset,
        _json(view["request"]),
        _json(view.get("pending_approvals")),
        _json(view.get("pending_questions")),
        run.due_at_ms,
        _json(view.get("usage")),
        run.error,
    )


def _json(value: JsonValue) -> str | None:
    return None if value is None else encode(value).decode()


# Reading


def run_fields(row: sqlite3.Row) -> dict[str, object]:
    """RunView of a row, without outputs. JSON columns pass through as they are stored."""
    view: dict[str, object] = {name: row[name] for name in _PLAIN}
    optional: dict[str, object] = {name: row[name] for name in _PLAIN_OPTIONAL}
    optional["request"] = _fragment(row["request"])
    optional["input_metadata"] = _fragment(row["input_metadata"])
    for kind in ("approval", "question"):
        stored = row[f"pending_{kind}s"]
        if stored is not None:
            optional[f"pending_{kind}_ids"] = [request["id"] for request in orjson.loads(stored)]
            optional[f"pending_{kind}s"] = _fragment(stored)
    optional["usage"] = _fragment(row["usage"])
    optional["error"] = row["error"]
    view.update((name, value) for name, value in optional.items() if value is not None)
    return view


_PLAIN = ("run_id", "session_id", "agent_id", "kind", "status", "submitted_at_ms", "updated_at_ms")
_PLAIN_OPTIONAL = ("started_at_ms", "finished_at_ms", "queued_position")


def _fragment(stored: str | None) -> orjson.Fragment | None:
    return None if stored is None else orjson.Fragment(stored)


def get(connection: sqlite3.Connection, run_id: str) -> sqlite3.Row | None:
    """The run's row with its queue position."""
    row: sqlite3.Row | None = connection.execute(_GET, {"run_id": run_id}).fetchone()
    return row


def newest(connection: sqlite3.Connection, *, session_id: str | None, limit: int) -> list[sqlite3.Row]:
    """The newest runs, ascending by submission."""
    statement = _NEWEST if session_id is None else _NEWEST_OF_SESSION
    rows = connection.execute(statement, {"session_id": session_id, "limit": limit}).fetchall()
    return rows[::-1]


def live_first(connection: sqlite3.Connection, *, session_id: str | None, limit: int) -> list[sqlite3.Row]:
    """Live runs before ended ones, each group by last change, newest first."""
    statement = _BY_LIVENESS if session_id is None else _BY_LIVENESS_OF_SESSION
    fields = {"session_id": session_id, "live": 1, "limit": limit}
    rows = connection.execute(statement, fields).fetchall()
    if len(rows) < limit:
        rows += connection.execute(statement, {**fields, "live": 0, "limit": limit - len(rows)}).fetchall()
    return rows


def page(
    connection: sqlite3.Connection, *, session_id: str | None, descending: bool, after: int, limit: int
) -> list[sqlite3.Row]:
    """The next runs in order of acceptance, which is that of their numbers, from after that number."""
    if session_id is None:
        statement = _PAGE_DESC if descending else _PAGE_ASC
    else:
        statement = _PAGE_DESC_OF_SESSION if descending else _PAGE_ASC_OF_SESSION
    fields = {"session_id": session_id, "after": after, "limit": limit}
    return connection.execute(statement, fields).fetchall()


def count(connection: sqlite3.Connection, session_id: str | None) -> int:
    statement = _COUNT if session_id is None else _COUNT_OF_SESSION
    total: int = connection.execute(statement, {"session_id": session_id}).fetchone()["total"]
    return total


def count_ended_before(connection: sqlite3.Connection, cutoff_ms: int, *, session_id: str | None) -> int:
    """Runs that were over by then."""
    fields = {"cutoff_ms": cutoff_ms, "session_id": session_id}
    total: int = connection.execute(_COUNT_ENDED_BEFORE, fields).fetchone()["total"]
    return total


def outputs_of(connection: sqlite3.Connection, runs: Sequence[sqlite3.Row]) -> dict[str, list[orjson.Fragment]]:
    """The outputs of many runs in one query, by run id."""
    found: dict[str, list[orjson.Fragment]] = {}
    fields = {
        "places": encode(_places(runs)).decode(),
        "run_ids": encode([run["run_id"] for run in runs]).decode(),
    }
    for row in connection.execute(_OUTPUTS, fields):
        found.setdefault(row["run_id"], []).append(orjson.Fragment(row["body"]))
    return found


def _places(runs: Sequence[sqlite3.Row]) -> list[JsonValue]:
    """Session, first and last position of the runs' entries. Runs of one queue share theirs: each place once."""
    places: list[tuple[str, int, int]] = []
    for session_id, first, last in sorted((run["session_id"], run["first_offset"], run["last_offset"]) for run in runs):
        if places and places[-1][0] == session_id and first <= places[-1][2]:
            first, last = places[-1][1], max(last, places.pop()[2])
        places.append((session_id, first, last))
    return [[*place] for place in places]


def outputs_of_session(connection: sqlite3.Connection, session_id: str, limit: int) -> list[str]:
    """The session's newest outputs as stored, oldest first."""
    rows = connection.execute(_OUTPUTS_OF_SESSION, {"session_id": session_id, "limit": limit}).fetchall()
    return [row["body"] for row in reversed(rows)]


def outputs_in(transition: Transition) -> list[str] | None:
    """The outputs a commit adds; None when it may hold one that is there already, from before a restart."""
    found: list[str] = []
    for recorded in transition.entries:
        for call_id, record in output_record(recorded.session_id, recorded.run_id or "", recorded.entry):
            if call_id:
                return None
            found.append(encode(record).decode())
    return found


def pending_of_session(connection: sqlite3.Connection, session_id: str) -> tuple[str | None, str | None]:
    """The approvals and questions the session's run waits for, as stored JSON."""
    row = connection.execute(_PENDING_OF_SESSION, {"session_id": session_id}).fetchone()
    return (None, None) if row is None else (row["pending_approvals"], row["pending_questions"])


def waiting(connection: sqlite3.Connection, status: RunStatus) -> list[sqlite3.Row]:
    """Every run that waits for this kind of answer, by session."""
    return connection.execute(_WAITING, {"status": status.value}).fetchall()


def accepted_positions(connection: sqlite3.Connection, session_id: str) -> dict[str, int]:
    """The place in the queue each run of a session was accepted at."""
    rows = connection.execute(_ACCEPTED_POSITIONS, {"session_id": session_id})
    return {row["run_id"]: row["accepted_position"] for row in rows}


def live_sessions(connection: sqlite3.Connection) -> list[str]:
    """Sessions with unfinished runs: all a restart has to look at."""
    return [row["session_id"] for row in connection.execute(_LIVE_SESSIONS)]


def last_number(connection: sqlite3.Connection) -> int:
    number: int = connection.execute(_LAST_NUMBER).fetchone()["number"]
    return number


def counts(connection: sqlite3.Connection) -> dict[str, int]:
    """Runs per status."""
    return {row["status"]: row["runs"] for row in connection.execute(_COUNTS)}


def deepest_queue(connection: sqlite3.Connection) -> int:
    row = connection.execute(_DEEPEST_QUEUE).fetchone()
    return 0 if row is None else int(row["depth"])


def live(connection: sqlite3.Connection) -> list[sqlite3.Row]:
    """Every unfinished run, in order of acceptance."""
    return connection.execute(_LIVE).fetchall()


# Idempotency and affinity


def find_key(connection: sqlite3.Connection, scope: str, key_hash: str) -> UsedKey | None:
    row = connection.execute(_FIND_KEY, {"scope": scope, "key_hash": key_hash}).fetchone()
    return None if row is None else UsedKey(run_id=row["run_id"], fingerprint=row["fingerprint"])


def remember_key(
    connection: sqlite3.Connection, *, scope: str, key_hash: str, fingerprint: str, run_id: str, at_ms: int
) -> None:
    connection.execute(
        _INSERT_KEY,
        {"scope": scope, "key_hash": key_hash, "fingerprint": fingerprint, "run_id": run_id, "at_ms": at_ms},
    )


def bind(connection: sqlite3.Connection, key: str, session_id: str) -> str:
    """Tie an affinity key to a session; returns the session it belongs to, now and forever."""
    connection.execute(_BIND, {"key": key, "session_id": session_id})
    owner: str = connection.execute(_BOUND_TO, {"key": key}).fetchone()["session_id"]
    return owner
