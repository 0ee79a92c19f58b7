"""The status snapshot and the capabilities document."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from kheish.daemon.health import of_events
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
        insert = (
            "INSERT INTO sessions (session_id, agent_id, created_at_ms, updated_at_ms, status, journal_bytes) "
            "VALUES (?1, 'agent-' || ?1, 0, 0, 'idle', ?2)"
        )
        connection.executemany(insert, rows)
        connection.commit()
    found = (await free.get("/v1/status")).json()["storage"]["session_storage"]

    assert found["oversized_session_count"] == 2
    assert found["oversized_session_ids"] == ["far-above", "above"]
    assert found["largest_session_id"] == "far-above"


async def warnings(house: House) -> dict[str, Any]:
    """Health warnings by code."""
    found = (await house.get("/v1/status")).json()["health"]["warnings"]
    for one in found:
        assert one["message"]
        assert one["action"], f"{one['code']} says nothing to do"
    return {one["code"]: one for one in found}


async def test_what_is_only_information_leaves_the_daemon_well(tmp_path: Path) -> None:
    routes = '[routes.paid]\ndriver = "openai"\ndefault_model = "gpt-5.4"\napi_key = "sk-hunter2-01"\n'
    async with opened(tmp_path, routes=routes) as house:
        found = await warnings(house)
        health = (await house.get("/v1/status")).json()["health"]

    inline, open_to_all = found["provider_inline_key"], found["auth_disabled"]
    assert (inline["severity"], inline["related_id"]) == ("info", "paid")
    assert "api_key_env" in inline["action"]
    assert open_to_all["severity"] == "info"
    assert (health["ok"], health["route_error_count"], health["route_warning_count"]) == (True, 0, 0)


async def test_runs_that_wait_too_long_are_named(tmp_path: Path) -> None:
    limits = ("KHEISH_QUEUED_RUN_LAG_WARNING_THRESHOLD_MS", "KHEISH_STALE_NON_TERMINAL_RUN_THRESHOLD_MS")
    async with opened(tmp_path, environ=dict.fromkeys(limits, "0"), permission_mode="bypassPermissions") as house:
        assert not {"queued_run_lag", "stale_non_terminal_runs"} & set(await warnings(house))
        await house.session()
        held = await house.submit("hold")
        queued = await house.submit("later")
        found = await warnings(house)
        runs = (await house.get("/v1/status")).json()["runs"]
        house.release()
        await house.settled()
        assert not {"queued_run_lag", "stale_non_terminal_runs"} & set(await warnings(house))

    assert found["queued_run_lag"]["related_id"] == queued["run_id"]
    assert set(runs["stale_non_terminal_run_ids"]) == {held["run_id"], queued["run_id"]}
    assert "2" in found["stale_non_terminal_runs"]["message"]


async def test_a_default_route_that_cannot_be_used_makes_the_daemon_unwell(tmp_path: Path) -> None:
    routes = '[routes.paid]\ndriver = "openai"\ndefault_model = "gpt-5.4"\napi_key_env = "NOT_SET"\n'
    async with opened(tmp_path, routes=routes) as house:
        found = await warnings(house)
        status = (await house.get("/v1/status")).json()

    assert found["provider_active_route_not_ready"]["severity"] == "error"
    assert status["health"]["ok"] is False
    assert status["provider_readiness"]["active_route_ready"] is False
    assert "NOT_SET" in status["provider_readiness"]["routes"][0]["action"]


def test_events_that_slow_readers_missed_are_warned_of() -> None:
    assert of_events({"stream_lagged_event_count": 0}) == []
    [found] = of_events({"stream_lagged_event_count": 4})

    assert (found["code"], found["severity"]) == ("event_stream_lagged", "warning")
    assert "4" in str(found["message"])
    assert "reconnecting" in str(found["action"])


async def test_the_setup_is_warned_of_where_it_opens_something(tmp_path: Path) -> None:
    state_root = tmp_path / "workspace" / "state"
    (state_root / "auth").mkdir(parents=True)
    (state_root / "auth" / "global-slots.json").write_text('{"slots": {}}')
    key = {"KHEISH_AUTH_STORE_MASTER_KEY": base64.b64encode(bytes(32)).decode(), "KHEISH_AGENT_MAX_TURNS": "0"}
    async with opened(tmp_path, environ=key, state_root=str(state_root)) as house:
        before = await warnings(house)
        record = {"slot_id": "a", "provider": "generic", "mode": "opaque_secret", "state": {"value": "hunter2"}}
        await house.post("/v1/runtime/secrets", record)
        after = await warnings(house)

    assert {"no_turn_ceiling", "state_root_inside_workspace", "secret_store_plaintext"} <= set(before)
    assert before["secret_store_plaintext"]["related_id"] == str(state_root / "auth" / "global-slots.json")
    assert set(before) - set(after) == {"secret_store_plaintext"}


async def test_background_work_that_failed_is_named(house: House) -> None:
    failed = asyncio.Event()

    async def work() -> None:
        if failed.is_set():
            await asyncio.Event().wait()
        failed.set()
        raise RuntimeError("hunter2")

    house.daemon.supervisor.start("poller", work)
    async with asyncio.timeout(30):
        await failed.wait()
        while "worker_failed" not in (found := await warnings(house)):
            pass

    assert found["worker_failed"]["related_id"] == "poller"
    assert "hunter2" not in str(found)


async def test_status_has_the_blocks_and_fields_that_operators_read(house: House) -> None:
    """daemon-and-cli, status snapshot; what belongs to parts that are not built yet is absent."""
    status = (await house.get("/v1/status")).json()
    promised = {
        "": "snapshot_at_ms process_id status ready capabilities runtime control_plane storage provider_readiness "
        "health events sessions runs",
        "control_plane": "bind_addr base_url auth_enabled auth_duplicate_token auth_token_file_count "
        "auth_token_file_error_count auth_token_files externally_exposed_without_auth cors_policy "
        "cors_allowed_origin_count",
        "storage": "ok write_error_count probes state_root_lock session_storage",
        "provider_readiness": "active_route_ready route_count ready_route_count warning_route_count error_route_count "
        "routes",
        "events": "history_capacity retained_event_count next_event_id tail_event_id_cursor subscriber_count "
        "replay_gap_count stream_lagged_event_count replay_buffer_utilization_percent evicted_event_count",
        "runs": "running queued waiting_for_approval waiting_for_user_question failed pending_approval_count "
        "pending_question_count queued_run_lag_threshold_ms stale_non_terminal_run_threshold_ms",
        "health": "ok warnings",
    }

    for block, names in promised.items():
        found = status[block] if block else status
        assert set(names.split()) <= set(found), block


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
