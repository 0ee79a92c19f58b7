"""Does a session's row, and do its runs' rows, say what its journal says?"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field

from kheish.core.jsonvalue import JsonObject, decode
from kheish.engine.entries import Recorded
from kheish.engine.journal import JournalDamaged, row_to_entry
from kheish.engine.state import RunState, SessionState, advance, apply
from kheish.runs.views import output_record
from kheish.state import store
from kheish.state.findings import Findings

_RESTORE = "Restore a backup with `kheish-daemon state restore` to get this session back; the others are not affected."
_REPORT = "The journal is what counts; report this, with the report of this command."


@dataclass(slots=True)
class Replay:
    """What folding a whole journal tells."""

    session: SessionState
    runs: dict[str, RunState] = field(default_factory=dict)
    outputs: set[tuple[str, str]] = field(default_factory=set)
    """Run id and call id of everything the runs put out."""


def replay(session_id: str, journal: Iterable[Recorded]) -> Replay:
    """Fold a journal, keeping also the runs that are over."""
    found = Replay(session=SessionState(session_id=session_id))
    for recorded in journal:
        run_id = recorded.run_id
        before = None if run_id is None else found.session.run(run_id)
        found.session = advance(found.session, recorded)
        if run_id is None:
            continue
        after = found.session.run(run_id) or (None if before is None else apply(before, recorded))
        if after is not None:
            found.runs[run_id] = after
        found.outputs.update((run_id, key) for key, _ in output_record(session_id, run_id, recorded.entry))
    return found


def check_session(connection: sqlite3.Connection, row: sqlite3.Row, findings: Findings) -> None:
    """Compare one session's rows with its journal."""
    session_id: str = row["session_id"]
    findings.checked["sessions"] += 1
    journal = _entries(connection, session_id, findings)
    if journal is None:
        return
    findings.checked["entries"] += len(journal)
    try:
        told = replay(session_id, journal)
    # Well-formed entries in an order no release wrote: whatever that breaks, the journal is what is wrong.
    except Exception as error:
        message = f"its entries contradict each other ({type(error).__name__})"
        findings.error("journal_contradictory", f"session {session_id}", message, _RESTORE)
        return
    if row["journal_len"] != len(journal):
        message = f"its row counts {row['journal_len']} entries, the journal has {len(journal)}"
        findings.error("session_row_differs", f"session {session_id}", message, _REPORT)
    _check_runs(connection, session_id, told, findings)
    _check_outputs(connection, session_id, told, findings)


def _entries(connection: sqlite3.Connection, session_id: str, findings: Findings) -> list[Recorded] | None:
    entries: list[Recorded] = []
    for expected, row in enumerate(store.journal(connection, session_id), start=1):
        where = f"session {session_id}, entry {expected}"
        if row["position"] != expected:
            findings.error("journal_gap", where, f"entry {row['position']} stands in its place", _RESTORE)
            return None
        try:
            entries.append(row_to_entry(session_id, row))
        except JournalDamaged:
            findings.error("entry_damaged", where, "it cannot be read", _RESTORE)
            return None
    return entries


def _check_runs(connection: sqlite3.Connection, session_id: str, told: Replay, findings: Findings) -> None:
    rows = {row["run_id"]: row for row in store.runs_of(connection, session_id)}
    findings.checked["runs"] += len(rows)
    for run_id in told.runs.keys() - rows.keys():
        findings.error("run_row_missing", run_id, f"the journal of session {session_id!r} has it", _REPORT)
    for run_id in rows.keys() - told.runs.keys():
        findings.error("run_without_journal", run_id, f"the journal of session {session_id!r} has it not", _REPORT)
    for run_id in sorted(told.runs.keys() & rows.keys()):
        differing = [name for name, value in _facts(told.runs[run_id]).items() if _stored(rows[run_id], name) != value]
        if differing:
            message = f"its row differs from the journal in {', '.join(differing)}"
            findings.error("run_row_differs", run_id, message, _REPORT)


def _facts(run: RunState) -> dict[str, object]:
    return {
        "status": run.status.value,
        "live": int(not run.status.terminal),
        "first_offset": run.first_offset,
        "last_offset": run.last_offset,
        "submitted_at_ms": run.submitted_at_ms,
        "finished_at_ms": run.finished_at_ms,
        "error": run.error,
        "pending_approvals": _ids(run.pending_approvals),
        "pending_questions": _ids(run.pending_questions),
    }


def _ids(requests: Iterable[JsonObject]) -> list[object]:
    return [request["id"] for request in requests]


def _stored(row: sqlite3.Row, name: str) -> object:
    value = row[name]
    if not name.startswith("pending_"):
        return value
    try:
        requests = [] if value is None else decode(value)
    except ValueError:
        return None
    return (
        [one.get("id") if isinstance(one, dict) else None for one in requests] if isinstance(requests, list) else None
    )


def _check_outputs(connection: sqlite3.Connection, session_id: str, told: Replay, findings: Findings) -> None:
    rows = store.outputs_of(connection, session_id)
    findings.checked["outputs"] += len(rows)
    for row in rows:
        if not row["sound"]:
            findings.error("output_damaged", row["run_id"], "an output is not readable", _REPORT)
    stored = {(row["run_id"], row["call_id"]) for row in rows}
    for run_id, _ in sorted(told.outputs - stored):
        findings.error("output_missing", run_id, "the journal has an output that has no row", _REPORT)
    for run_id, _ in sorted(stored - told.outputs):
        findings.error("output_without_journal", run_id, "an output has a row and no journal entry", _REPORT)
