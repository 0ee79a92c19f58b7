"""The reading SQL of the state tools. What they read belongs to others; they change none of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from kheish.core.jsonvalue import JsonObject

_SESSIONS = "SELECT * FROM sessions ORDER BY session_id"
_SESSION = "SELECT * FROM sessions WHERE session_id = :session_id"
_SESSIONS_WITHOUT_ROW = """
SELECT DISTINCT session_id FROM journal WHERE session_id NOT IN (SELECT session_id FROM sessions)
"""
# Texts are read as bytes: one that is not UTF-8 is this row's damage, not the query's.
_JOURNAL = """
SELECT position, run_id, at_ms, CAST(type AS BLOB) AS type, version, CAST(body AS BLOB) AS body FROM journal
 WHERE session_id = :session_id ORDER BY position
"""
_JOURNAL_OF_RUN = """
SELECT CAST(journal.body AS BLOB) AS body FROM runs
  JOIN journal ON journal.session_id = runs.session_id AND journal.run_id = runs.run_id
                  AND journal.position BETWEEN runs.first_offset AND runs.last_offset
 WHERE runs.run_id = :run_id
"""
_RUNS_OF_SESSION = """
SELECT run_id, number, agent_id, kind, status, live, first_offset, last_offset, submitted_at_ms, updated_at_ms,
       started_at_ms, finished_at_ms, error,
       CAST(pending_approvals AS BLOB) AS pending_approvals, CAST(pending_questions AS BLOB) AS pending_questions
  FROM runs WHERE session_id = :session_id ORDER BY number
"""
_ACCEPTED_POSITIONS = "SELECT run_id, accepted_position FROM runs WHERE session_id = :session_id"
_KEYS_OF_SESSION = """
SELECT run_id, key_hash, fingerprint FROM idempotency
 WHERE run_id IN (SELECT run_id FROM runs WHERE session_id = :session_id)
"""
_LOST_RUNS = "SELECT run_id, session_id FROM runs WHERE session_id NOT IN (SELECT session_id FROM sessions)"
_DAMAGED_RUNS = "SELECT run_id FROM runs WHERE run_id NOT IN (SELECT run_id FROM sound_runs)"
_OUTPUTS_OF_SESSION = """
SELECT run_id, call_id, position, json_valid(body) AS sound FROM outputs WHERE session_id = :session_id
"""
_LOST_OUTPUTS = "SELECT run_id, call_id FROM outputs WHERE run_id NOT IN (SELECT run_id FROM runs)"
_LOST_KEYS = "SELECT scope, run_id FROM idempotency WHERE run_id NOT IN (SELECT run_id FROM runs)"
_LOST_BINDINGS = "SELECT session_id FROM binding_keys WHERE session_id NOT IN (SELECT session_id FROM sessions)"
# A row without content keeps an id that was given out.
_FEED = """
SELECT id, CASE WHEN json_valid(data) THEN json_extract(data, '$.type') IS type
                ELSE type = '' AND data = '' END AS sound
  FROM feed ORDER BY id
"""
_TABLES = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"
_COUNTS_IDS = "SELECT COUNT(*) AS tables FROM sqlite_schema WHERE type = 'table' AND sql LIKE '%AUTOINCREMENT%'"
_MIGRATIONS = "SELECT number, name, sha256 FROM schema_migrations ORDER BY number"


def sessions(connection: sqlite3.Connection) -> list[sqlite3.Row]:
    """Every session, by id."""
    return connection.execute(_SESSIONS).fetchall()


def session(connection: sqlite3.Connection, session_id: str) -> sqlite3.Row | None:
    found: sqlite3.Row | None = connection.execute(_SESSION, {"session_id": session_id}).fetchone()
    return found


def sessions_without_row(connection: sqlite3.Connection) -> list[str]:
    """Sessions that have a journal only."""
    return [row["session_id"] for row in connection.execute(_SESSIONS_WITHOUT_ROW)]


def journal(connection: sqlite3.Connection, session_id: str) -> list[sqlite3.Row]:
    """One session's entries as they are stored, in order."""
    return connection.execute(_JOURNAL, {"session_id": session_id}).fetchall()


def bodies_of_run(connection: sqlite3.Connection, run_id: str) -> list[bytes]:
    """The bodies of one run's entries."""
    return [row["body"] for row in connection.execute(_JOURNAL_OF_RUN, {"run_id": run_id})]


def runs_of(connection: sqlite3.Connection, session_id: str) -> list[sqlite3.Row]:
    return connection.execute(_RUNS_OF_SESSION, {"session_id": session_id}).fetchall()


def outputs_of(connection: sqlite3.Connection, session_id: str) -> list[sqlite3.Row]:
    return connection.execute(_OUTPUTS_OF_SESSION, {"session_id": session_id}).fetchall()


def accepted_positions(connection: sqlite3.Connection, session_id: str) -> dict[str, int]:
    """Run id to the place in the queue it was accepted at."""
    rows = connection.execute(_ACCEPTED_POSITIONS, {"session_id": session_id})
    return {row["run_id"]: row["accepted_position"] for row in rows}


def keys_of(connection: sqlite3.Connection, session_id: str) -> dict[str, JsonObject]:
    """Run id to the idempotency key it was submitted with."""
    rows = connection.execute(_KEYS_OF_SESSION, {"session_id": session_id})
    return {row["run_id"]: {"key_hash": row["key_hash"], "request_fingerprint": row["fingerprint"]} for row in rows}


def lost_runs(connection: sqlite3.Connection) -> list[sqlite3.Row]:
    """Runs of sessions that do not exist."""
    return connection.execute(_LOST_RUNS).fetchall()


def damaged_runs(connection: sqlite3.Connection) -> list[str]:
    """Runs whose row cannot be shown."""
    return [row["run_id"] for row in connection.execute(_DAMAGED_RUNS)]


def lost_outputs(connection: sqlite3.Connection) -> list[sqlite3.Row]:
    return connection.execute(_LOST_OUTPUTS).fetchall()


def lost_keys(connection: sqlite3.Connection) -> list[sqlite3.Row]:
    return connection.execute(_LOST_KEYS).fetchall()


def lost_bindings(connection: sqlite3.Connection) -> list[str]:
    return [row["session_id"] for row in connection.execute(_LOST_BINDINGS)]


def feed(connection: sqlite3.Connection) -> Iterator[sqlite3.Row]:
    yield from connection.execute(_FEED)


def tables(connection: sqlite3.Connection) -> list[str]:
    return [row["name"] for row in connection.execute(_TABLES)]


def counts_ids(connection: sqlite3.Connection) -> bool:
    """Whether the database counts ids in a table of its own, as older schemas have it."""
    return bool(connection.execute(_COUNTS_IDS).fetchone()["tables"])


def migrations(connection: sqlite3.Connection) -> dict[int, tuple[str, str]]:
    """Number to name and SHA-256 of what was applied."""
    return {row["number"]: (row["name"], row["sha256"]) for row in connection.execute(_MIGRATIONS)}


def integrity(connection: sqlite3.Connection, *, quick: bool, limit: int) -> list[str]:
    """What the database itself finds wrong with its pages; empty when all is well."""
    check = "quick_check" if quick else "integrity_check"
    rows = [row[0] for row in connection.execute(f"PRAGMA {check}({limit:d})")]
    return [] if rows == ["ok"] else rows
