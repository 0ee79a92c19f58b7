"""state verify: is everything there, readable, and of one mind?"""

from __future__ import annotations

import hashlib
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path

from kheish.core.jsonvalue import JsonObject
from kheish.state import root, store
from kheish.state.actions import check_actions
from kheish.state.findings import MAX_LISTED, Findings
from kheish.state.journals import check_session
from kheish.state.root import StateUnreadable
from kheish.store.migrations import shipped
from kheish.store.snapshot import ATTEMPTS, DatabaseMoved

Step = Callable[[str], None]
"""Told what is looked at next."""

_RESTORE = "Restore a backup with `kheish-daemon state restore`."
_REPORT = "The daemon goes on without it; report this, with the report of this command."


def verify(state_root: Path, *, quick: bool = False, step: Step = lambda name: None) -> JsonObject:
    """Check a state root, with or without a daemon on it; changes nothing.

    Raises:
        StateRefused: there is no database.
        DatabaseMoved: daemons started again and again meanwhile.
    """
    for _ in range(ATTEMPTS - 1):
        try:
            return _verified(state_root, quick=quick, step=step)
        except DatabaseMoved:
            step("once more, for a daemon has started")
    return _verified(state_root, quick=quick, step=step)


def _verified(state_root: Path, *, quick: bool, step: Step) -> JsonObject:
    findings = Findings()
    _check_modes(state_root, findings)
    try:
        with root.reading(state_root) as connection:
            _check_database(connection, findings, quick=quick, step=step)
    except StateUnreadable as problem:
        findings.error("database_damaged", root.DATABASE, problem.detail, _RESTORE)
    step("files")
    _check_blobs(state_root, findings)
    return findings.report()


def _check_database(connection: sqlite3.Connection, findings: Findings, *, quick: bool, step: Step) -> None:
    step("database pages")
    _check_pages(connection, findings, quick=quick)
    if findings.ok:
        step("schema")
        _check_schema(connection, findings)
    if findings.ok:
        _check_rows(connection, findings, step)
        if not quick and "external_actions" in store.tables(connection):
            step("external actions")
            check_actions(connection, findings)


def _check_pages(connection: sqlite3.Connection, findings: Findings, *, quick: bool) -> None:
    try:
        faults = store.integrity(connection, quick=quick, limit=MAX_LISTED)
    except sqlite3.DatabaseError as error:
        faults = [str(error)]
    for fault in faults:
        findings.error("database_damaged", root.DATABASE, fault, _RESTORE)
    findings.checked["databases"] = 1


def _check_schema(connection: sqlite3.Connection, findings: Findings) -> None:
    known = {migration.number: (migration.name, migration.sha256) for migration in shipped()}
    if "schema_migrations" not in store.tables(connection):
        findings.error("schema_unknown", root.DATABASE, "this is no database of a daemon", _RESTORE)
        return
    applied = store.migrations(connection)
    findings.checked["migrations"] = len(applied)
    for number in sorted(applied):
        if number not in known:
            findings.error("schema_newer", root.DATABASE, f"migration {number} is unknown", "Use a newer release.")
        elif applied[number] != known[number]:
            findings.error("schema_changed", root.DATABASE, f"migration {number} has other content", _RESTORE)
    for number in sorted(known.keys() - applied.keys()):
        action = "Nothing to do: the next start of this release applies it, after a backup."
        findings.warning("schema_older", root.DATABASE, f"migration {known[number][0]} is not applied yet", action)
    if known.keys() - applied.keys():
        return
    expected = _tables_of_this_release()
    present = set(store.tables(connection))
    for name in sorted(present - expected):
        findings.warning("table_unknown", name, "no release made this table", "Find out who did.")
    for name in sorted(expected - present):
        findings.error("table_missing", name, "the table is gone", _RESTORE)


def _tables_of_this_release() -> set[str]:
    memory = sqlite3.connect(":memory:")
    memory.row_factory = sqlite3.Row
    for migration in shipped():
        memory.executescript(migration.sql)
    names = {*store.tables(memory), "schema_migrations"}
    memory.close()
    return names


def _check_rows(connection: sqlite3.Connection, findings: Findings, step: Step) -> None:
    for row in store.sessions(connection):
        step(f"session {row['session_id']}")
        check_session(connection, row, findings)
    step("references")
    for session_id in store.sessions_without_row(connection):
        findings.error("session_row_missing", f"session {session_id}", "it has a journal and no row", _RESTORE)
    for run in store.lost_runs(connection):
        findings.error("run_session_missing", run["run_id"], f"session {run['session_id']!r} does not exist", _RESTORE)
    for run_id in store.damaged_runs(connection):
        findings.error("run_row_damaged", run_id, "its row is not readable", _REPORT)
    for output in store.lost_outputs(connection):
        findings.error("output_run_missing", output["run_id"], "an output belongs to no run", _REPORT)
    for key in store.lost_keys(connection):
        findings.error("key_run_missing", key["run_id"], f"an idempotency key of {key['scope']} names it", _REPORT)
    for session_id in store.lost_bindings(connection):
        findings.error("binding_session_missing", f"session {session_id}", "a binding key names it", _REPORT)
    _check_feed(connection, findings)


def _check_feed(connection: sqlite3.Connection, findings: Findings) -> None:
    for row in store.feed(connection):
        findings.checked["events"] += 1
        if not row["sound"]:
            findings.error("event_damaged", f"event {row['id']}", "its data cannot be read", _REPORT)


def _check_blobs(state_root: Path, findings: Findings) -> None:
    for path in root.blob_files(state_root):
        where = str(path.relative_to(state_root))
        if path.name.startswith("."):
            findings.warning("blob_unfinished", where, "a write that never ended", "Run `kheish-daemon state vacuum`.")
            continue
        findings.checked["blobs"] += 1
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            findings.error("blob_unreadable", where, error.strerror or "cannot be read", _RESTORE)
            continue
        if found != path.name or path.parent.name != path.name[:2]:
            findings.error("blob_damaged", where, "its content does not match its name", _RESTORE)


def _check_modes(state_root: Path, findings: Findings) -> None:
    for path in (state_root, *sorted(state_root.rglob("*"))):
        try:
            found = path.lstat().st_mode
        except OSError:
            continue
        mode = stat.S_IMODE(found)
        if not stat.S_ISLNK(found) and mode & (stat.S_IRWXG | stat.S_IRWXO) and path.name != "daemon.lock":
            where = "." if path == state_root else str(path.relative_to(state_root))
            wanted = "700" if path.is_dir() else "600"
            message = f"others than its owner may use it (mode {mode:o})"
            findings.warning("file_open_to_others", where, message, f"Run `chmod {wanted} {path}`.")
