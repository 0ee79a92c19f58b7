"""A damaged store: what is touched says so and the rest goes on; one that cannot be used is refused at the start."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from kheish.core.problems import Problem
from kheish.daemon.state_root import StateRootUnusable
from kheish.store.blobs import BlobMissing, BlobStore
from kheish.store.migrations import SchemaMismatch
from tests.http.house import House, opened

pytestmark = pytest.mark.anyio


async def filled(root: Path) -> None:
    async with opened(root) as house:
        for session_id in ("s", "t"):
            await house.session(session_id)
            for text in ("hi", "emit"):
                await house.submit(text, session_id)
                await house.settled(session_id)
        await house.submit("count once", "s")
        await house.settled("s")


def change(root: Path, *statements: str) -> None:
    with closing(sqlite3.connect(root / "state" / "kheish.db", isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


async def works(house: House, session_id: str) -> bool:
    run = await house.submit("hi", session_id)
    await house.settled(session_id)
    return bool((await house.run(run["run_id"]))["status"] == "completed")


async def test_a_session_with_a_damaged_journal_is_quarantined_and_named(tmp_path: Path) -> None:
    await filled(tmp_path)
    change(tmp_path, "UPDATE journal SET body = 'x' WHERE session_id = 's' AND position = 4")
    async with opened(tmp_path) as house:
        storage = (await house.get("/v1/status")).json()["storage"]
        refused = await house.post("/v1/sessions/s/runs", {"content": "hi"})
        health = (await house.get("/v1/status")).json()["health"]

        assert storage["quarantined_session_count"] == 1
        [named] = storage["quarantined_sessions"]
        assert (named["session_id"], named["code"]) == ("s", "journal_damaged")
        assert "state verify" in named["action"]
        assert (refused.status_code, refused.json()["code"]) == (500, "journal_damaged")
        assert "sessions_quarantined" in {warning["code"] for warning in health["warnings"]}
        assert await works(house, "t")


async def test_a_session_that_was_repaired_leaves_quarantine(tmp_path: Path) -> None:
    await filled(tmp_path)
    async with opened(tmp_path) as house:
        change(tmp_path, "UPDATE journal SET type = 'x' || type WHERE session_id = 't' AND position = 2")
        house.daemon.engine._recent.clear()
        assert (await house.post("/v1/sessions/t/runs", {"content": "hi"})).status_code == 500
        assert (await house.get("/v1/status")).json()["storage"]["quarantined_session_count"] == 1
        change(tmp_path, "UPDATE journal SET type = substr(type, 2) WHERE session_id = 't' AND position = 2")
        assert await works(house, "t")
        assert (await house.get("/v1/status")).json()["storage"]["quarantined_session_count"] == 0


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE runs SET request = '{' WHERE run_id = 'run-1'",
        "UPDATE runs SET pending_approvals = 'x' WHERE run_id = 'run-1'",
        "UPDATE outputs SET body = '{' WHERE run_id = 'run-2'",
        "UPDATE feed SET data = '{' WHERE id < 10",
        "UPDATE sessions SET todos = '{' WHERE session_id = 's'",
        "UPDATE idempotency SET run_id = 'nobody'",
        "UPDATE runtime_revisions SET body = '{'",
        "UPDATE sessions SET last_assistant_message = CAST(x'ff' AS TEXT) WHERE session_id = 's'",
    ],
)
async def test_a_damaged_row_never_stops_the_daemon_or_another_session(tmp_path: Path, damage: str) -> None:
    await filled(tmp_path)
    change(tmp_path, damage)
    async with opened(tmp_path) as house:
        assert await works(house, "t")
        for path in ("/v1/status", "/v1/sessions/t", "/v1/sessions/t/events", "/v1/runs/run-3"):
            assert (await house.get(path)).status_code == 200, path
        for path in ("/v1/sessions", "/v1/sessions/s", "/v1/sessions/s/events", "/v1/runs", "/v1/runs/run-1"):
            response = await house.get(path)
            assert response.status_code in (200, 404, 500, 503), path
            assert response.status_code == 200 or response.headers["content-type"] == "application/problem+json"


async def test_a_page_that_is_damaged_under_a_working_daemon_is_a_problem_and_is_counted(tmp_path: Path) -> None:
    await filled(tmp_path)
    path = tmp_path / "state" / "kheish.db"
    with closing(sqlite3.connect(path)) as connection:
        [(page,)] = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'outputs'")
        [(size,)] = connection.execute("PRAGMA page_size")
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xa5" * size)
    async with opened(tmp_path) as house:
        broken = await house.get("/v1/runs/run-1")
        storage = (await house.get("/v1/status")).json()["storage"]
        listed = await house.get("/v1/sessions")

    assert (broken.status_code, broken.json()["domain"], broken.json()["code"]) == (503, "storage", "store_unreadable")
    assert storage["read_error_count"] >= 1
    assert storage["last_error"]["code"] == "store_unreadable"
    assert listed.status_code == 200


def _garbage(path: Path) -> None:
    path.write_bytes(b"garbage" * 10_000)


def _other_database(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE schema_migrations (x)")
        connection.commit()


def _lost_table(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE feed")
        connection.commit()


def _schema_page(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[100:600] = b"\xa5" * 500
    path.write_bytes(content)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [_garbage, _other_database, _lost_table, _schema_page, _folder])
async def test_a_store_that_cannot_be_used_is_refused_with_the_way_out_and_left_alone(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    await filled(tmp_path)
    path = tmp_path / "state" / "kheish.db"
    damage(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(Problem) as caught:
        async with opened(tmp_path):
            pass

    assert isinstance(caught.value, StateRootUnusable | SchemaMismatch)
    assert "kheish-daemon state verify" in caught.value.detail
    assert "state restore" in caught.value.detail
    assert (path.read_bytes() if path.is_file() else b"") == before


async def test_garbage_at_the_end_of_the_log_beside_the_database_costs_nothing_that_was_answered(
    tmp_path: Path,
) -> None:
    """A power cut in the middle of a write: frames that were not synced are ignored."""
    await filled(tmp_path)
    log = tmp_path / "state" / "kheish.db-wal"
    with closing(sqlite3.connect(tmp_path / "state" / "kheish.db", isolation_level=None)) as connection:
        connection.execute("UPDATE sessions SET last_error = 'in the log' WHERE session_id = 's'")
        torn = log.read_bytes() + b"\xa5" * 5000
        database = (tmp_path / "state" / "kheish.db").read_bytes()
    log.write_bytes(torn)
    (tmp_path / "state" / "kheish.db").write_bytes(database)
    async with opened(tmp_path) as house:
        assert (await house.get("/v1/sessions/s")).json()["snapshot"]["last_error"] == "in the log"
        assert await works(house, "t")


def test_a_missing_or_damaged_blob_is_named(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path / "blobs")
    name = blobs.put(b"content")
    blobs.path(name).write_bytes(b"other")
    with pytest.raises(BlobMissing, match="damaged"):
        blobs.get(name)
    blobs.path(name).unlink()
    with pytest.raises(BlobMissing, match=name):
        blobs.get(name)
