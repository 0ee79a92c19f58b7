"""The status snapshot and the capabilities document."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

import pytest

from tests.http.house import House, opened

pytestmark = pytest.mark.anyio


async def test_status_counts_what_the_lists_show(free: House) -> None:
    await free.session("held")
    await free.submit("hold", "held")
    await free.submit("later", "held")
    await free.session("done")
    await free.submit("hi", "done")
    await free.settled("done")
    status = (await free.get("/v1/status")).json()

    runs = status["runs"]
    assert (runs["total"], runs["running"], runs["queued"], runs["completed"]) == (3, 1, 1, 1)
    assert runs["max_session_queue_depth"] == 1
    assert runs["oldest_queued_run_id"] == "run-2"
    assert status["sessions"] == {"total": 2, "active": 1, "waiting_for_store": 0}
    assert status["process_id"] == os.getpid()
    assert (status["status"], status["ready"], status["health"]["ok"]) == ("ready", True, True)
    assert status["runtime"] == (await free.get("/v1/runtime")).json()
    assert status["events"]["tail_event_id_cursor"].isdecimal()
    assert [worker["name"] for worker in status["workers"]] == ["timers"]


async def test_status_shows_who_holds_the_state_root_and_that_it_can_write(house: House, tmp_path: Path) -> None:
    storage = (await house.get("/v1/status")).json()["storage"]

    lock = tmp_path / "state" / "daemon.lock"
    assert storage["ok"] is True
    assert storage["state_root_lock"] == {"path": str(lock), "held": True, "mechanism": "flock"}
    assert lock.read_text() == f"pid={os.getpid()}\nmechanism=flock\n"
    assert [(probe["name"], probe["state"]) for probe in storage["probes"]] == [
        ("state_root", "ok"),
        ("workspace_root", "ok"),
        ("store", "ok"),
    ]


async def test_a_workspace_that_went_away_is_an_error_with_an_action(house: House) -> None:
    house.workspace.rename(house.workspace.with_name("moved"))
    status = (await house.get("/v1/status")).json()

    assert status["storage"]["ok"] is False
    assert status["health"]["ok"] is False
    [warning] = [one for one in status["health"]["warnings"] if one["severity"] == "error"]
    assert warning["code"] == "storage_write_probe_failed"
    assert warning["action"]


async def test_status_knows_the_bytes_of_every_journal(free: House, tmp_path: Path) -> None:
    empty = (await free.get("/v1/status")).json()["storage"]["session_storage"]
    for name, text in (("small", "hi"), ("large", "hello " * 10_000), ("idle", None)):
        await free.session(name)
        if text is not None:
            await free.submit(text, name)
            await free.settled(name)
    free.daemon.board._probed = None
    found = (await free.get("/v1/status")).json()["storage"]["session_storage"]
    with contextlib.closing(sqlite3.connect(tmp_path / "state" / "kheish.db")) as connection:
        query = "SELECT session_id, SUM(LENGTH(CAST(body AS BLOB))) FROM journal GROUP BY session_id"
        counted = dict(connection.execute(query).fetchall())

    assert (empty["session_count"], empty["total_bytes"], empty["largest_session_bytes"]) == (0, 0, 0)
    assert found == {
        "session_count": 3,
        "total_bytes": counted["small"] + counted["large"],
        "largest_session_id": "large",
        "largest_session_bytes": counted["large"],
        "oversized_threshold_bytes": 104_857_600,
        "oversized_session_count": 0,
    }


async def test_sessions_above_a_hundred_mebibytes_are_named(free: House, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "state" / "kheish.db")) as connection:
        rows = [("exactly", 104_857_600), ("above", 104_857_601), ("far-above", 200_000_000)]
        connection.executemany("INSERT INTO journal_sizes (session_id, bytes) VALUES (?, ?)", rows)
        connection.commit()
    found = (await free.get("/v1/status")).json()["storage"]["session_storage"]

    assert found["oversized_session_count"] == 2
    assert found["oversized_session_ids"] == ["far-above", "above"]
    assert found["largest_session_id"] == "far-above"


async def test_status_never_shows_a_key(tmp_path: Path) -> None:
    routes = '[routes.paid]\ndriver = "openai"\ndefault_model = "gpt-5.4"\napi_key = "sk-hunter2"\n'
    async with opened(tmp_path, routes=routes) as house:
        for path in ("/v1/status", "/v1/runtime", "/v1/runtime/revisions"):
            assert "hunter2" not in (await house.get(path)).text


async def test_capabilities_name_what_clients_ask_for(house: House) -> None:
    found = (await house.get("/v1/capabilities")).json()

    assert found["api_revision"] == 3
    promised = (
        "session_run_idempotency session_events restart_restore live_events approvals cursor_pagination "
        "paginated_lists problem_details domain_errors sse_replay typed_sse_heartbeat"
    )
    assert all(found[name] is True for name in promised.split())
