"""state export: journals as JSON lines, in the envelope of the documented interfaces."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

from kheish.core.jsonvalue import JsonObject, decode, encode
from kheish.engine.entries import Recorded
from kheish.engine.journal import row_to_entry
from kheish.runs.views import output_record
from kheish.sessions.checkpoints import checkpoints
from kheish.sessions.views import audits, journal_events
from kheish.state import root, store
from kheish.state.root import StateRefused

_VERSION = 2
_METADATA = {
    "route_policy": "session_route_policy",
    "reply_targets": "session_reply_targets",
    "capability_scope": "session_capability_scope",
    "credential_scope": "session_credential_scope",
}
"""Columns of a session and the keys their values have in the envelope."""


def export(state_root: Path, write: Callable[[bytes], object], *, session_id: str | None = None) -> JsonObject:
    """Write every journal, or one session's, a line at a time; works while a daemon runs.

    Raises:
        StateRefused: there is no such session, or no database.
        JournalDamaged: an entry cannot be read; what was written before it is good.
    """
    sessions = lines = 0
    with root.reading(state_root) as connection:
        for row in _chosen(connection, session_id):
            sessions += 1
            for record in records(connection, row):
                write(encode({"version": _VERSION, "session_id": row["session_id"], "record": record}) + b"\n")
                lines += 1
    return {"sessions": sessions, "lines": lines}


def records(connection: sqlite3.Connection, row: sqlite3.Row) -> Iterator[JsonObject]:
    """One session's records: events, audits and outputs in journal order, then checkpoints and metadata."""
    session_id = row["session_id"]
    journal = [row_to_entry(session_id, entry) for entry in store.journal(connection, session_id)]
    for recorded in journal:
        yield from _of_entry(recorded)
    for checkpoint in checkpoints(journal):
        yield {"type": "checkpoint", "checkpoint": checkpoint}
    yield from _metadata(row)


def _chosen(connection: sqlite3.Connection, session_id: str | None) -> list[sqlite3.Row]:
    if session_id is None:
        return store.sessions(connection)
    row = store.session(connection, session_id)
    if row is None:
        raise StateRefused(f"There is no session {session_id!r}.")
    return [row]


def _of_entry(recorded: Recorded) -> Iterator[JsonObject]:
    for entry in journal_events([recorded]):
        yield {"type": "event", "entry": entry}
    for audit in audits([recorded]):
        yield {"type": "permission_audit", "audit": audit}
    for _, output in output_record(recorded.session_id, recorded.run_id or "", recorded.entry):
        yield {"type": "output", "output": output}


def _metadata(row: sqlite3.Row) -> Iterator[JsonObject]:
    for column, key in _METADATA.items():
        if row[column] is not None:
            yield {"type": "metadata", "key": key, "value": decode(row[column])}
    if row["todos"] is not None:
        value: JsonObject = {"plan_mode": False, "todos": decode(row["todos"])}
        yield {"type": "metadata", "key": "session_control_state", "value": value}
