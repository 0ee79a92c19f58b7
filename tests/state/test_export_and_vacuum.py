"""state export writes what the API shows; state vacuum changes nothing but the size."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from kheish.state.export import export
from kheish.state.layout import export_folder, stem
from kheish.state.root import StateRefused
from kheish.state.vacuum import content_digest, vacuum, vacuum_session
from kheish.store.files import private_folder
from kheish.store.lock import StateLock, StateRootLocked
from tests.http.house import opened
from tests.state.conftest import Kept

Lines = Callable[[bytes], list[Any]]
TYPES = {"event", "checkpoint", "permission_audit", "output", "metadata"}


def digest(output: Any) -> str:
    return hashlib.sha256(output["content"].encode()).hexdigest()


def exported(state: Path, **options: Any) -> tuple[bytes, Any]:
    parts: list[bytes] = []
    report = export(state, parts.append, **options)
    return b"".join(parts), report


def test_every_line_is_in_the_documented_envelope(kept: Kept, lines: Lines) -> None:
    data, report = exported(kept.state)
    found = lines(data)

    assert report == {"sessions": 3, "lines": len(found), "damaged_session_count": 0, "damaged_sessions": []}
    for line in found:
        assert set(line) == {"version", "session_id", "record"}
        assert line["version"] == 2
        assert line["record"]["type"] in TYPES
    for session_id in {line["session_id"] for line in found}:
        records = [line["record"] for line in found if line["session_id"] == session_id]
        offsets = [record["entry"]["offset"] for record in records if record["type"] == "event"]
        assert offsets == sorted(set(offsets))


@pytest.mark.anyio
async def test_the_export_of_a_session_is_what_the_api_shows(kept: Kept, lines: Lines) -> None:
    data, _ = exported(kept.state, session_id="s")
    records = [line["record"] for line in lines(data)]
    async with opened(kept.root) as house:
        shown = (await house.get("/v1/sessions/s/events")).json()

    assert [one["entry"] for one in records if one["type"] == "event"] == shown["session"]["journal"]
    assert [one["audit"] for one in records if one["type"] == "permission_audit"] == shown["session"]["audits"]
    outputs = [one["output"] for one in records if one["type"] == "output"]
    assert [{**one, "plugin": None, "payload_digest": digest(one)} for one in shown["daemon_outputs"]] == outputs
    assert {one["key"]: one["value"] for one in records if one["type"] == "metadata"} == shown["session"]["metadata"]


def test_an_unknown_session_is_said(kept: Kept, tmp_path: Path) -> None:
    with pytest.raises(StateRefused, match="'nobody'"):
        exported(kept.state, session_id="nobody")
    with pytest.raises(StateRefused, match="'nobody'"):
        export_folder(kept.state, tmp_path / "out", session_id="nobody")


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE journal SET body = 'x' WHERE session_id = 's' AND position = 2",
        "UPDATE journal SET body = CAST(x'ff00' AS TEXT) WHERE session_id = 's' AND position = 2",
        "UPDATE sessions SET todos = '{' WHERE session_id = 's'",
    ],
)
def test_a_damaged_session_is_left_out_whole_and_named(kept: Kept, lines: Lines, tmp_path: Path, damage: str) -> None:
    kept.change(damage)
    data, report = exported(kept.state)
    folder: Any = export_folder(kept.state, tmp_path / "out")

    assert {line["session_id"] for line in lines(data)} == {"ask/ü", "wait"}
    for told in (report, folder):
        assert (told["sessions"], told["damaged_session_count"]) == (2, 1)
        assert told["damaged_sessions"][0]["session_id"] == "s"
    assert not (tmp_path / "out" / "sessions" / "__safe" / f"{stem('s')}.jsonl").exists()


@pytest.mark.anyio
async def test_a_folder_holds_what_the_api_shows_of_runs_and_sessions(kept: Kept, lines: Lines, tmp_path: Path) -> None:
    report = export_folder(kept.state, tmp_path / "out")
    [key] = kept.rows("SELECT run_id, key_hash, fingerprint FROM idempotency")
    async with opened(kept.root) as house:
        runs = (await house.get("/v1/runs")).json()
        for run in runs:
            record = json.loads((tmp_path / "out" / "runs" / "__safe" / f"{stem(run['run_id'])}.json").read_text())
            events = (tmp_path / "out" / "run-events" / "__safe" / f"{stem(run['run_id'])}.jsonl").read_bytes()
            assert record["view"] == run
            assert record["payload"]["type"] == "input"
            assert lines(events) == (await house.get(f"/v1/runs/{run['run_id']}/events")).json()
            named = {"key_hash": key[1], "request_fingerprint": key[2]} if run["run_id"] == key[0] else None
            assert record["payload"].get("idempotency") == named
        for session_id in ("s", "ask/ü", "wait"):
            shown = (await house.get(f"/v1/sessions/{quote(session_id, safe='')}/events")).json()["session"]
            told = lines((tmp_path / "out" / "sessions" / "__safe" / f"{stem(session_id)}.jsonl").read_bytes())
            assert [one["record"]["entry"] for one in told if one["record"]["type"] == "event"] == shown["journal"]

    assert (report["sessions"], report["runs"]) == (3, len(runs))
    for path in (tmp_path / "out").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


@pytest.mark.anyio
async def test_what_is_set_for_a_session_is_a_file_each(kept: Kept, tmp_path: Path) -> None:
    scope = {"allowed_tools": ["read_file"]}
    async with opened(kept.root) as house:
        body = {"session_id": "set", "capability_scope": scope}
        assert (await house.post("/v1/sessions", body)).status_code == 201
        shown = (await house.get("/v1/sessions/set/events")).json()["session"]["metadata"]
    export_folder(kept.state, tmp_path / "out", session_id="set")
    files = sorted((tmp_path / "out" / "sessions" / "__safe" / f"{stem('set')}.meta").iterdir())

    assert {path.stem: json.loads(path.read_text()) for path in files} == shown
    assert shown["session_capability_scope"] == scope


def test_an_id_too_long_for_a_file_name_has_one_all_the_same() -> None:
    assert stem("a/b") == "id-612f62"
    assert len(stem("ü" * 512)) < 200
    assert stem("ü" * 512) != stem("ü" * 511)


def test_a_folder_that_holds_something_is_not_exported_to(kept: Kept, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    with pytest.raises(StateRefused, match="not empty"):
        export_folder(kept.state, tmp_path / "mine")


def test_vacuum_gives_space_back_and_keeps_every_row(kept: Kept) -> None:
    kept.change(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) "
        "INSERT INTO binding_keys SELECT 'key ' || i || hex(zeroblob(200)), 's' FROM n"
    )
    kept.change("DELETE FROM binding_keys")
    unfinished = kept.state / "blobs" / "aa" / ".half.tmp"
    private_folder(unfinished.parent)
    unfinished.write_bytes(b"half")
    before = content_digest(kept.database)
    report = vacuum(kept.state)

    assert report["bytes_after"] < report["bytes_before"]
    assert report["unfinished_files_removed"] == 1
    assert content_digest(kept.database) == before
    assert content_digest(Path(report["backup_path"])) == before
    assert kept.verified()["findings"] == []
    assert sorted(path.name for path in kept.state.glob(".*")) == []


@pytest.mark.anyio
async def test_a_session_is_the_same_after_a_vacuum_and_event_ids_go_on(kept: Kept) -> None:
    async with opened(kept.root) as house:
        before = (await house.get("/v1/sessions/s/events")).json()
        tail = int((await house.get("/v1/status")).json()["events"]["tail_event_id_cursor"])
        with pytest.raises(StateRootLocked):
            vacuum(kept.state)
    [(entries,)] = kept.rows("SELECT COUNT(*) FROM journal WHERE session_id = 's'")
    report = vacuum_session(kept.state, "s")
    async with opened(kept.root) as house:
        after = (await house.get("/v1/sessions/s/events")).json()
        await house.submit("hi")
        await house.settled()
        assert int((await house.get("/v1/status")).json()["events"]["tail_event_id_cursor"]) > tail

    assert after == before
    assert report["session_id"] == "s"
    assert sum(report["kept_by_type"].values()) == entries
    for name in ("path", "backup_path", "bytes_before", "bytes_after", "metadata_keys_kept", "torn_tail_dropped"):
        assert name in report


def test_a_second_vacuum_waits_until_the_first_backup_is_gone(kept: Kept) -> None:
    report = vacuum(kept.state)
    with pytest.raises(StateRefused, match="earlier vacuum"):
        vacuum(kept.state)
    Path(report["backup_path"]).unlink()
    vacuum(kept.state)


def test_vacuum_of_a_locked_or_missing_state_is_refused(kept: Kept, tmp_path: Path) -> None:
    lock = StateLock(kept.state)
    lock.acquire()
    with pytest.raises(StateRootLocked):
        vacuum(kept.state)
    lock.release()
    with pytest.raises(StateRefused, match="missing"):
        vacuum(tmp_path)
    with pytest.raises(StateRefused, match="'nobody'"):
        vacuum_session(kept.state, "nobody")


def test_a_damaged_database_is_not_rewritten(kept: Kept) -> None:
    size = kept.database.stat().st_size
    with kept.database.open("r+b") as file:
        for offset in range(4096 * 2, size, 4096):
            file.seek(offset)
            file.write(b"\xa5" * 64)
    before = kept.database.read_bytes()

    with pytest.raises(Exception, match=r"kheish\.db"):
        vacuum(kept.state)
    assert kept.database.read_bytes() == before
    assert not (kept.state / "kheish.db.vacuum-bak").exists()


def test_what_is_in_the_log_beside_the_database_is_kept(kept: Kept) -> None:
    with closing(sqlite3.connect(kept.database, isolation_level=None)) as writer:
        writer.execute("PRAGMA wal_autocheckpoint = 0")
        writer.execute("UPDATE sessions SET last_error = 'in the log' WHERE session_id = 's'")
        before = content_digest(kept.database)
    vacuum(kept.state)

    assert content_digest(kept.database) == before
    assert kept.rows("SELECT last_error FROM sessions WHERE session_id = 's'") == [("in the log",)]


def test_a_vacuum_waits_until_nobody_reads(kept: Kept) -> None:
    """A reader keeps the log from being emptied; without the log the kept file would lack the newest commits."""
    with closing(sqlite3.connect(kept.database, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT COUNT(*) FROM runs").fetchone()
        kept.change("UPDATE sessions SET last_error = 'new' WHERE session_id = 's'")
        with pytest.raises(StateRefused, match="Try again"):
            vacuum(kept.state)
        assert not (kept.state / "kheish.db.vacuum-bak").exists()
    before = content_digest(kept.database)
    report = vacuum(kept.state)

    assert content_digest(Path(report["backup_path"])) == content_digest(kept.database) == before
