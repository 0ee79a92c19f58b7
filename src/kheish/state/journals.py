"""Does a session's row, and do its runs' rows, say what its journal says?"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field

from kheish.core.jsonvalue import decode
from kheish.engine.entries import Compacted, Recorded, RunStatus, SessionEnded
from kheish.engine.journal import JournalDamaged, row_to_entry
from kheish.engine.state import RunState, SessionState, advance, apply
from kheish.runs.views import output_record
from kheish.sessions.models import AgentStatus
from kheish.state import store
from kheish.state.findings import Findings

_RESTORE = "Restore a backup with `kheish-daemon state restore` to get this session back; the others are not affected."
_REPORT = "The journal is what counts; report this, with the report of this command."
_ACTIVE = {
    RunStatus.WAITING_FOR_APPROVAL: AgentStatus.WAITING_FOR_APPROVAL,
    RunStatus.WAITING_FOR_USER_QUESTION: AgentStatus.WAITING_FOR_USER_INPUT,
}
_WITHOUT_RUN = (AgentStatus.IDLE, AgentStatus.COMPLETED, AgentStatus.FAILED)
_SESSION_JSON = ("route_policy", "reply_targets", "capability_scope", "credential_scope", "todos")


@dataclass(slots=True)
class Replay:
    """What folding a whole journal tells."""

    session: SessionState
    runs: dict[str, RunState] = field(default_factory=dict)
    outputs: dict[tuple[str, str], int] = field(default_factory=dict)
    """Run id and call id of everything the runs put out, and the entry it came with."""
    checkpoints: int = 0
    strays: list[int] = field(default_factory=list)
    """Entries of runs that were never accepted."""


def replay(session_id: str, journal: Iterable[Recorded]) -> Replay:
    """Fold a journal, keeping also the runs that are over."""
    found = Replay(session=SessionState(session_id=session_id))
    for recorded in journal:
        run_id = recorded.run_id
        before = None if run_id is None else found.session.run(run_id)
        found.session = advance(found.session, recorded)
        if isinstance(recorded.entry, Compacted):
            found.checkpoints = recorded.entry.window_generation
        if run_id is None:
            found.strays += [] if isinstance(recorded.entry, SessionEnded) else [recorded.offset]
            continue
        after = found.session.run(run_id) or (None if before is None else apply(before, recorded))
        if after is not None:
            found.runs[run_id] = after
        if run_id not in found.runs:
            found.strays.append(recorded.offset)
        for key, _ in output_record(session_id, run_id, recorded.entry):
            found.outputs.setdefault((run_id, key), recorded.offset)
    return found


def check_session(connection: sqlite3.Connection, row: sqlite3.Row, findings: Findings) -> None:
    """Compare one session's rows with its journal."""
    session_id: str = row["session_id"]
    findings.checked["sessions"] += 1
    rows = store.journal(connection, session_id)
    journal = _entries(rows, session_id, findings)
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
    for offset in told.strays:
        findings.error("entry_without_run", f"session {session_id}, entry {offset}", "its run is unknown", _RESTORE)
    _check_row(row, told, len(journal), findings)
    _check_size(row, rows, findings)
    _check_runs(connection, session_id, told, findings)
    _check_outputs(connection, session_id, told, findings)


def bodies_of_run(connection: sqlite3.Connection, run_id: str) -> list[bytes]:
    """The entries of one run as they are stored."""
    return store.bodies_of_run(connection, run_id)


def _entries(rows: Iterable[sqlite3.Row], session_id: str, findings: Findings) -> list[Recorded] | None:
    entries: list[Recorded] = []
    for expected, row in enumerate(rows, start=1):
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


def _check_row(row: sqlite3.Row, told: Replay, entries: int, findings: Findings) -> None:
    where = f"session {row['session_id']}"
    active = told.session.active
    facts = {
        "journal_len": entries,
        "checkpoint_len": told.checkpoints,
        "pending_approvals": 0 if active is None else len(active.pending_approvals),
        "pending_questions": 0 if active is None else len(active.pending_questions),
    }
    # A database of an older schema lacks some columns; the next start adds them.
    differing = [name for name in facts.keys() & set(row.keys()) if row[name] != facts[name]]
    differing.sort()
    fitting = _WITHOUT_RUN if active is None else (_ACTIVE.get(active.status, AgentStatus.RUNNING),)
    if row["status"] not in fitting:
        differing.append("status")
    if differing:
        message = f"its row differs from the journal in {', '.join(differing)}"
        findings.error("session_row_differs", where, message, _REPORT)
    damaged = [name for name in _SESSION_JSON if row[name] is not None and _json(row[name]) is _UNREADABLE]
    if damaged:
        message = f"its row is not readable in {', '.join(damaged)}"
        findings.error("session_row_damaged", where, message, _REPORT)


def _check_size(row: sqlite3.Row, journal: Iterable[sqlite3.Row], findings: Findings) -> None:
    # A database of an older schema counts elsewhere, or not at all.
    there = sum(len(entry["body"]) for entry in journal)
    counted = row["journal_bytes"] if "journal_bytes" in row.keys() else there  # noqa: SIM118  # a row has values
    if counted != there:
        message = f"its entries take {there} bytes, {counted} are counted"
        findings.warning("session_size_differs", f"session {row['session_id']}", message, _REPORT)


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
        "number": int(run.run_id.rpartition("-")[2]),
        "agent_id": run.agent_id,
        "kind": run.kind,
        "status": run.status.value,
        "live": int(not run.status.terminal),
        "first_offset": run.first_offset,
        "last_offset": run.last_offset,
        "submitted_at_ms": run.submitted_at_ms,
        "updated_at_ms": run.updated_at_ms,
        "started_at_ms": run.started_at_ms,
        "finished_at_ms": run.finished_at_ms,
        "error": run.error,
        "pending_approvals": list(run.pending_approvals),
        "pending_questions": list(run.pending_questions),
    }


_UNREADABLE = object()


def _stored(row: sqlite3.Row, name: str) -> object:
    value = row[name]
    if not name.startswith("pending_"):
        return value
    return [] if value is None else _json(value)


def _json(text: object) -> object:
    try:
        return decode(text) if isinstance(text, str | bytes) else _UNREADABLE
    except ValueError:
        return _UNREADABLE


def _check_outputs(connection: sqlite3.Connection, session_id: str, told: Replay, findings: Findings) -> None:
    rows = store.outputs_of(connection, session_id)
    findings.checked["outputs"] += len(rows)
    for row in rows:
        if not row["sound"]:
            findings.error("output_damaged", row["run_id"], "an output is not readable", _REPORT)
    stored = {(row["run_id"], row["call_id"]): row["position"] for row in rows}
    for run_id, _ in sorted(told.outputs.keys() - stored.keys()):
        findings.error("output_missing", run_id, "the journal has an output that has no row", _REPORT)
    for run_id, _ in sorted(stored.keys() - told.outputs.keys()):
        findings.error("output_without_journal", run_id, "an output has a row and no journal entry", _REPORT)
    for key in sorted(stored.keys() & told.outputs.keys()):
        if stored[key] != told.outputs[key]:
            message = f"an output is said to come with entry {stored[key]}, it came with {told.outputs[key]}"
            findings.error("output_differs", key[0], message, _REPORT)
