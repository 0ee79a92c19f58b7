"""SQL of sessions, and their projection from the journal."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import cast

from kheish.core.jsonvalue import JsonObject, encode
from kheish.core.messages import TextPart
from kheish.core.problems import Problem
from kheish.core.values import value_class
from kheish.engine import entries as e
from kheish.engine.entries import RunStatus
from kheish.engine.ports import Transition
from kheish.engine.state import RunState
from kheish.sessions.models import AgentStatus
from kheish.sessions.views import snapshot
from kheish.store.database import Transaction
from kheish.store.feed import Feed
from kheish.store.remembered import Remembered
from kheish.store.rows import change

_CREATE = """
INSERT INTO sessions (session_id, agent_id, thread_id, capability_scope, credential_scope, created_at_ms,
                      updated_at_ms, status)
VALUES (:session_id, :agent_id, :thread_id, :capability_scope, :credential_scope, :at_ms, :at_ms, 'idle')
ON CONFLICT (session_id) DO NOTHING
"""
_GET = "SELECT * FROM sound_sessions WHERE session_id = :session_id"
_EXISTS = "SELECT 1 FROM sessions WHERE session_id = :session_id"
_LIST = "SELECT * FROM sound_sessions ORDER BY session_id LIMIT :limit"
_PAGE = "SELECT * FROM sound_sessions WHERE session_id > :after ORDER BY session_id LIMIT :limit"
_LIST_OF_PERSONA = """
SELECT * FROM sound_sessions WHERE persona_id = :persona_id AND session_id > :after ORDER BY session_id LIMIT :limit
"""
_COUNT = "SELECT COUNT(*) AS total FROM sessions"
_COUNT_OF_PERSONA = "SELECT COUNT(*) AS total FROM sessions WHERE persona_id = :persona_id"
_SET_ROUTE_POLICY = """
UPDATE sessions SET route_policy = :value, updated_at_ms = :at_ms WHERE session_id = :session_id
"""
_SET_CREDENTIAL_SCOPE = """
UPDATE sessions SET credential_scope = :value, updated_at_ms = :at_ms WHERE session_id = :session_id
"""
_SET_REPLY_TARGETS = """
UPDATE sessions SET reply_targets = :value, updated_at_ms = :at_ms WHERE session_id = :session_id
"""
_STATE = """
SELECT session_id, agent_id, thread_id, created_at_ms, status, pending_approvals, pending_questions, journal_len,
       checkpoint_len, last_assistant_message, last_error
  FROM sessions WHERE session_id = :session_id
"""
_PROJECT = change(
    "sessions",
    "session_id",
    (
        "status",
        "pending_approvals",
        "pending_questions",
        "journal_len",
        "checkpoint_len",
        "at_ms",
        "message",
        "error_known",
        "error",
        "todos",
        "bytes",
        "input_tokens",
        "output_tokens",
        "cost_usd",
    ),
    "status = new.status, pending_approvals = new.pending_approvals, pending_questions = new.pending_questions,"
    " journal_len = new.journal_len, checkpoint_len = COALESCE(new.checkpoint_len, sessions.checkpoint_len),"
    " updated_at_ms = new.at_ms, last_assistant_message = COALESCE(new.message, sessions.last_assistant_message),"
    " last_error = CASE WHEN new.error_known THEN new.error ELSE sessions.last_error END,"
    " todos = COALESCE(new.todos, sessions.todos), journal_bytes = sessions.journal_bytes + new.bytes,"
    " input_tokens = sessions.input_tokens + new.input_tokens,"
    " output_tokens = sessions.output_tokens + new.output_tokens, cost_usd = sessions.cost_usd + new.cost_usd",
)
_SIZES = """
SELECT COALESCE(SUM(journal_bytes), 0) AS total, SUM(journal_bytes > :threshold) AS oversized
  FROM sessions WHERE typeof(journal_bytes) = 'integer'
"""
_LARGEST = """
SELECT session_id, journal_bytes AS bytes FROM sessions
 WHERE typeof(journal_bytes) = 'integer' AND typeof(session_id) = 'text' AND journal_bytes > 0
 ORDER BY journal_bytes DESC, session_id LIMIT :limit
"""
_TODOS = "SELECT todos FROM sessions WHERE session_id = :session_id AND json_valid(todos)"


@value_class(frozen=True, kw_only=True, slots=True)
class JournalSizes:
    """What the entries of all sessions take, in bytes of their bodies."""

    total_bytes: int
    largest: tuple[tuple[str, int], ...]
    """The largest sessions and their bytes, largest first."""
    oversized: int
    """Sessions above the threshold that was asked for."""


class SessionDamaged(Problem):
    """The row of this session cannot be read."""

    domain, code, status = "sessions", "session_damaged", 500

    def __init__(self, session_id: str) -> None:
        super().__init__(
            f"The row of session {session_id!r} is damaged. Other sessions are not affected; look with "
            "`kheish-daemon state verify`, and restore a backup to get this one back."
        )


def create(
    connection: sqlite3.Connection,
    *,
    session_id: str,
    agent_id: str,
    thread_id: str | None,
    capability_scope: JsonObject | None,
    credential_scope: JsonObject | None,
    at_ms: int,
) -> tuple[sqlite3.Row, bool]:
    """Create the session or find it; one statement decides. Returns its row and whether it is new."""
    fields = {
        "session_id": session_id,
        "agent_id": agent_id,
        "thread_id": thread_id,
        "capability_scope": _json(capability_scope),
        "credential_scope": _json(credential_scope),
        "at_ms": at_ms,
    }
    created = connection.execute(_CREATE, fields).rowcount == 1
    row = get(connection, session_id)
    assert row is not None
    return row, created


def get(connection: sqlite3.Connection, session_id: str) -> sqlite3.Row | None:
    """The session's row.

    Raises:
        SessionDamaged: its columns do not hold what they should.
    """
    row: sqlite3.Row | None = connection.execute(_GET, {"session_id": session_id}).fetchone()
    if row is None and connection.execute(_EXISTS, {"session_id": session_id}).fetchone() is not None:
        raise SessionDamaged(session_id)
    return row


def listed(
    connection: sqlite3.Connection, *, persona_id: str | None, after: str | None, limit: int
) -> list[sqlite3.Row]:
    """Sessions by id, from after ``after``."""
    fields = {"persona_id": persona_id, "after": after or "", "limit": limit}
    unpaged = _LIST if after is None else _PAGE
    statement = unpaged if persona_id is None else _LIST_OF_PERSONA
    return connection.execute(statement, fields).fetchall()


def count(connection: sqlite3.Connection, persona_id: str | None = None) -> int:
    statement = _COUNT if persona_id is None else _COUNT_OF_PERSONA
    total: int = connection.execute(statement, {"persona_id": persona_id}).fetchone()["total"]
    return total


def sizes(connection: sqlite3.Connection, *, threshold: int, limit: int) -> JournalSizes:
    """The sizes of all journals, with the ``limit`` largest by name; ``threshold`` in bytes."""
    summed = connection.execute(_SIZES, {"threshold": threshold}).fetchone()
    rows = connection.execute(_LARGEST, {"limit": limit})
    return JournalSizes(
        total_bytes=summed["total"],
        largest=tuple((row["session_id"], row["bytes"]) for row in rows),
        oversized=summed["oversized"] or 0,
    )


def set_route_policy(connection: sqlite3.Connection, session_id: str, policy: JsonObject | None, at_ms: int) -> None:
    fields = {"session_id": session_id, "value": _json(policy), "at_ms": at_ms}
    connection.execute(_SET_ROUTE_POLICY, fields)


def set_credential_scope(connection: sqlite3.Connection, session_id: str, lists: JsonObject | None, at_ms: int) -> None:
    fields = {"session_id": session_id, "value": _json(lists), "at_ms": at_ms}
    connection.execute(_SET_CREDENTIAL_SCOPE, fields)


def set_reply_targets(
    connection: sqlite3.Connection, session_id: str, targets: tuple[JsonObject, ...], at_ms: int
) -> None:
    """Store the defaults; an empty list is remembered as "cleared", which differs from "never set"."""
    fields = {"session_id": session_id, "value": encode(list(targets)).decode(), "at_ms": at_ms}
    connection.execute(_SET_REPLY_TARGETS, fields)


def todos(connection: sqlite3.Connection, session_id: str) -> str | None:
    """The session's todo list as stored JSON."""
    row = connection.execute(_TODOS, {"session_id": session_id}).fetchone()
    return None if row is None else row["todos"]


def _json(value: JsonObject | None) -> str | None:
    return None if value is None else encode(value).decode()


_REMEMBERED_SESSIONS = 256
_shown_state = itemgetter("status", "pending_approvals", "pending_questions")


class SessionsProjection:
    """Keeps a session's row in step with its journal and tells the event feed when its state changed."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._rows: Remembered[Mapping[str, object]] = Remembered(_REMEMBERED_SESSIONS)

    def apply(self, transaction: Transaction, transition: Transition) -> None:
        session_id = transition.session_id
        before = self._rows.find(transaction, session_id) or _state(transaction.connection, session_id)
        fields = _fields(transition, cast("str", before["status"]))
        transaction.add(_PROJECT, ((*fields.values(), *_counts(transition)),))
        row = _after(before, fields)
        self._rows.keep(transaction, session_id, row)
        for run in transition.runs:
            if run.status is RunStatus.INTERRUPTED:
                data: JsonObject = {"type": "interrupted", "session_id": session_id, "agent_id": run.agent_id}
                self._feed.append(transaction, type="interrupted", session_id=session_id, run_id=None, data=data)
        if _shown_state(before) != _shown_state(row):
            tell_state(self._feed, transaction, row, transition.session.active)

    def row_of(self, session_id: str) -> Mapping[str, object] | None:
        """The columns that views show as the last durable commit left them, if they are still remembered."""
        return self._rows.last(session_id)


def _state(connection: sqlite3.Connection, session_id: str) -> Mapping[str, object]:
    row = connection.execute(_STATE, {"session_id": session_id}).fetchone()
    if row is None:
        raise LookupError(f"session {session_id!r} has a journal and no row")
    return dict(row)


def tell_state(feed: Feed, transaction: Transaction, row: Mapping[str, object], active: RunState | None) -> None:
    """Publish `session_state_changed` and `session_snapshot` of a session whose columns are ``row``."""
    session_id = str(row["session_id"])
    shown = ("session_id", "agent_id", "status", "pending_approvals", "pending_questions")
    approvals = [] if active is None else list(active.pending_approvals)
    questions = [] if active is None else list(active.pending_questions)
    changed = {name: row[name] for name in shown}
    snapped = {"session_id": session_id, "snapshot": snapshot(row, approvals, questions or None)}
    for kind, fields in (("session_state_changed", changed), ("session_snapshot", snapped)):
        data = cast("JsonObject", {"type": kind, **fields})
        feed.append(transaction, type=kind, session_id=session_id, run_id=None, data=data)


def _after(before: Mapping[str, object], fields: Mapping[str, object]) -> dict[str, object]:
    row = dict(before)
    for name in ("status", "pending_approvals", "pending_questions", "journal_len"):
        row[name] = fields[name]
    if fields["checkpoint_len"] is not None:
        row["checkpoint_len"] = fields["checkpoint_len"]
    if fields["message"] is not None:
        row["last_assistant_message"] = fields["message"]
    if fields["error_known"]:
        row["last_error"] = fields["error"]
    return row


def _counts(transition: Transition) -> tuple[int, int, int, float]:
    """What the entries of a commit take in bytes, and the tokens and dollars of their model calls."""
    read = written = 0
    cost = 0.0
    for recorded in transition.entries:
        entry = recorded.entry
        if recorded.run_id is not None and isinstance(entry, e.MODEL_CALLS):
            read += entry.usage.input_tokens
            written += entry.usage.output_tokens
            cost += entry.usage.cost_usd
    return sum(map(len, transition.bodies)), read, written, cost


def _fields(transition: Transition, status: str) -> dict[str, object]:
    """The values of `_PROJECT`, in its order and without its counts; ``status`` is the one before."""
    active = transition.session.active
    message = checkpoints = todos = None
    error_known, ended = False, None
    for recorded in transition.entries:
        match recorded.entry:
            case e.RunStarted():
                error_known = True
            case e.RunEnded(output=output):
                error_known, ended = True, recorded.run_id
                message = output or message
            case e.ModelReplied(parts=parts):
                message = "".join(part.text for part in parts if isinstance(part, TextPart)) or message
            case e.ToolFinished(effects=effects) if effects:
                todos = _todos(effects) or todos
            case e.Compacted(window_generation=generation):
                checkpoints = generation
    run = next((run for run in transition.runs if run.run_id == ended), None)
    return {
        "session_id": transition.session_id,
        "status": _status(active, run, status),
        "pending_approvals": 0 if active is None else len(active.pending_approvals),
        "pending_questions": 0 if active is None else len(active.pending_questions),
        "journal_len": transition.session.next_offset - 1,
        "checkpoint_len": checkpoints,
        "at_ms": transition.entries[-1].at_ms,
        "message": message,
        "error_known": error_known,
        "error": run.error if run is not None and run.status is RunStatus.FAILED else None,
        "todos": todos,
    }


_ACTIVE = {
    RunStatus.WAITING_FOR_APPROVAL: AgentStatus.WAITING_FOR_APPROVAL,
    RunStatus.WAITING_FOR_USER_QUESTION: AgentStatus.WAITING_FOR_USER_INPUT,
}
_ENDED = {RunStatus.COMPLETED: AgentStatus.COMPLETED, RunStatus.FAILED: AgentStatus.FAILED}


def _status(active: RunState | None, ended: RunState | None, before: str) -> str:
    if active is not None:
        return _ACTIVE.get(active.status, AgentStatus.RUNNING).value
    if ended is None or ended.started_at_ms is None:
        return before
    return _ENDED.get(ended.status, AgentStatus.IDLE).value


def _todos(effects: Sequence[JsonObject]) -> str | None:
    return next((encode(effect["todos"]).decode() for effect in effects if effect["type"] == "todos"), None)
