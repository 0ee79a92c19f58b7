"""state export into a folder: one file per journal, per setting, per run and per run's events."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path

import orjson

from kheish.core.jsonvalue import JsonObject, JsonValue, encode
from kheish.engine.entries import Recorded
from kheish.engine.state import RunState
from kheish.runs.views import output_record, queued_position, run_events, run_view
from kheish.state import root, store
from kheish.state.export import Exported, Step, chosen, journal, journal_records, lines, settings
from kheish.state.journals import Replay, replay
from kheish.state.root import StateRefused
from kheish.store.files import private_folder

_SAFE = "__safe"
_MAX_STEM_BYTES = 200
"""File systems end at 255 bytes for a name, its suffix included."""


def stem(name: str) -> str:
    """The file name that stands for an id; one too long for a file system is named by its SHA-256."""
    found = f"id-{name.encode().hex()}"
    return found if len(found) <= _MAX_STEM_BYTES else f"sha256-{hashlib.sha256(name.encode()).hexdigest()}"


def export_folder(
    state_root: Path, target: Path, *, session_id: str | None = None, step: Step = lambda name: None
) -> JsonObject:
    """Write every session, or one, as files below ``target``; works while a daemon runs.

    A session that cannot be read is left out whole and named in the report.

    Raises:
        StateRefused: ``target`` holds something already or cannot be written; there is no such session, or no database.
        StateUnreadable: the database cannot be read.
        DatabaseMoved: a daemon started meanwhile; what was written must not be used.
    """
    exported = Exported(counts={"sessions": 0, "runs": 0})
    with root.reading(state_root) as connection:
        rows = chosen(connection, session_id)
        try:
            private_folder(target)
            if any(target.iterdir()):
                raise StateRefused(f"{target} is not empty. Choose another folder.")
            for row in rows:
                step(f"session {row['session_id']}")
                _session(connection, row, target, exported)
            os.sync()
        except OSError as error:
            raise StateRefused(f"{target} cannot be written: {error.strerror}.") from error
    return exported.report()


def _session(connection: sqlite3.Connection, row: sqlite3.Row, target: Path, exported: Exported) -> None:
    session_id: str = row["session_id"]
    try:
        entries = journal(connection, session_id)
        told = replay(session_id, entries)
        found = settings(row)
        journal_lines = list(lines(session_id, journal_records(entries)))
    # What damage breaks is not known beforehand; whatever it is, only this session is left out.
    except Exception as error:
        exported.leave_out(session_id, error)
        return
    sessions = target / "sessions" / _SAFE
    _write(sessions / f"{stem(session_id)}.jsonl", journal_lines)
    for key, value in found.items():
        _write(sessions / f"{stem(session_id)}.meta" / f"{key}.json", [_pretty(value)])
    _runs(connection, entries, told, target)
    exported.counts["sessions"] += 1
    exported.counts["runs"] += len(told.runs)


def _runs(connection: sqlite3.Connection, entries: list[Recorded], told: Replay, target: Path) -> None:
    by_run: dict[str, list[Recorded]] = {run_id: [] for run_id in told.runs}
    for recorded in entries:
        if recorded.run_id in by_run:
            by_run[recorded.run_id].append(recorded)
    session_id = told.session.session_id
    positions = store.accepted_positions(connection, session_id)
    keys = store.keys_of(connection, session_id)
    for run_id, run in told.runs.items():
        record = _record(run, by_run[run_id], queued_position(run, told.session), keys.get(run_id))
        _write(target / "runs" / _SAFE / f"{stem(run_id)}.json", [_pretty(record)])
        events = run_events(by_run[run_id], agent_id=run.agent_id, accepted_position=positions.get(run_id, 1))
        _write(target / "run-events" / _SAFE / f"{stem(run_id)}.jsonl", [encode(event) + b"\n" for event in events])


def _record(run: RunState, entries: list[Recorded], position: int | None, key: JsonObject | None) -> JsonObject:
    """The run record of the documented interfaces."""
    view = run_view(run, position)
    outputs: list[JsonValue] = [
        output for one in entries for _, output in output_record(run.session_id, run.run_id, one.entry)
    ]
    if outputs:
        view["outputs"] = outputs
    payload: JsonObject = {"type": "input", "request": run.accepted.envelope}
    if key is not None:
        payload["idempotency"] = key
    record: JsonObject = {"view": view, "payload": payload}
    if run.accepted.reply_targets:
        record["reply_targets"] = list(run.accepted.reply_targets)
    return record


def _pretty(value: JsonValue) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2) + b"\n"


def _write(path: Path, parts: Iterable[bytes]) -> None:
    private_folder(path.parent)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.writelines(parts)
