"""state export: journals as JSON lines, in the envelope of the documented interfaces."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from kheish.core.jsonvalue import JsonObject, JsonValue, decode_object, encode
from kheish.engine.entries import Recorded
from kheish.engine.journal import JournalDamaged, row_to_entry
from kheish.runs.views import output_record
from kheish.sessions.checkpoints import checkpoints
from kheish.sessions.views import audits, journal_events, metadata
from kheish.state import root, store
from kheish.state.findings import MAX_LISTED
from kheish.state.root import StateRefused

_VERSION = 2
Step = Callable[[str], None]
"""Told what is written next."""


@dataclass(slots=True)
class Exported:
    """What was written, and what could not be read."""

    counts: dict[str, int]
    damaged: list[JsonValue] = field(default_factory=list)
    damaged_count: int = 0

    def leave_out(self, session_id: str, error: Exception) -> None:
        """Tell that a session is not in the export."""
        self.damaged_count += 1
        if len(self.damaged) < MAX_LISTED:
            reason = error.detail if isinstance(error, JournalDamaged) else "a value of it cannot be read"
            self.damaged.append({"session_id": session_id, "reason": reason})

    def report(self) -> JsonObject:
        """The JSON report."""
        return {**self.counts, "damaged_session_count": self.damaged_count, "damaged_sessions": self.damaged}


def export(
    state_root: Path,
    write: Callable[[bytes], object],
    *,
    session_id: str | None = None,
    step: Step = lambda name: None,
) -> JsonObject:
    """Write every journal, or one session's, a line at a time; works while a daemon runs.

    A session that cannot be read is left out whole and named in the report.

    Raises:
        StateRefused: there is no such session, or no database.
        StateUnreadable: the database cannot be read.
        DatabaseMoved: a daemon started meanwhile; what was written must not be used.
    """
    exported = Exported(counts={"sessions": 0, "lines": 0})
    with root.reading(state_root) as connection:
        for row in chosen(connection, session_id):
            step(f"session {row['session_id']}")
            try:
                told = list(lines(row["session_id"], records(row, journal(connection, row["session_id"]))))
            # What damage breaks is not known beforehand; whatever it is, only this session is left out.
            except Exception as error:
                exported.leave_out(row["session_id"], error)
                continue
            for line in told:
                write(line)
            exported.counts["sessions"] += 1
            exported.counts["lines"] += len(told)
    return exported.report()


def chosen(connection: sqlite3.Connection, session_id: str | None) -> list[sqlite3.Row]:
    """All sessions, or one.

    Raises:
        StateRefused: there is no such session.
    """
    if session_id is None:
        return store.sessions(connection)
    row = store.session(connection, session_id)
    if row is None:
        raise StateRefused(f"There is no session {session_id!r}.")
    return [row]


def journal(connection: sqlite3.Connection, session_id: str) -> list[Recorded]:
    """A session's entries.

    Raises:
        JournalDamaged: one of them cannot be read.
    """
    return [row_to_entry(session_id, row) for row in store.journal(connection, session_id)]


def records(row: sqlite3.Row, entries: list[Recorded]) -> Iterator[JsonObject]:
    """One session's records: events, audits and outputs in journal order, then checkpoints and metadata."""
    yield from journal_records(entries)
    for key, value in settings(row).items():
        yield {"type": "metadata", "key": key, "value": value}


def settings(row: sqlite3.Row) -> JsonObject:
    """What is set for a session, by the keys of its metadata records.

    Raises:
        ValueError: a value of its row is not JSON.
    """
    return decode_object(orjson.dumps(metadata(row)))


def journal_records(entries: list[Recorded]) -> Iterator[JsonObject]:
    """What `records` yields, without metadata."""
    for recorded in entries:
        for event in journal_events([recorded]):
            yield {"type": "event", "entry": event}
        for audit in audits([recorded]):
            yield {"type": "permission_audit", "audit": audit}
        for _, output in output_record(recorded.session_id, recorded.run_id or "", recorded.entry):
            yield {"type": "output", "output": _output(output)}
    for checkpoint in checkpoints(entries):
        yield {"type": "checkpoint", "checkpoint": checkpoint}


def lines(session_id: str, found: Iterable[JsonObject]) -> Iterator[bytes]:
    """Records in their envelopes."""
    for record in found:
        yield encode({"version": _VERSION, "session_id": session_id, "record": record}) + b"\n"


def _output(output: JsonObject) -> JsonObject:
    digest = hashlib.sha256(str(output["content"]).encode()).hexdigest()
    # No output went anywhere but to the daemon's own clients yet: there is no plugin to name.
    return {"plugin": None, "payload_digest": digest, **output}
