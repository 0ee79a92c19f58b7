"""What a restart finds (events-and-recovery cases 5 and 6 as decision 14 reads them), and what a drain leaves."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from kheish.core.jsonvalue import decode_object
from tests.fakes.watching import Each
from tests.http.house import DEADLINE_S, House, Json, opened

pytestmark = pytest.mark.anyio


def damage(root: Path, statement: str) -> None:
    with sqlite3.connect(root / "state" / "kheish.db") as connection:
        assert connection.execute(statement).rowcount == 1
    connection.close()


async def test_a_drain_answers_inline_callers_and_leaves_their_run_to_be_resumed(tmp_path: Path) -> None:
    async with opened(tmp_path, permission_mode="bypassPermissions") as before:
        await before.session()
        call = asyncio.create_task(before.post("/v1/sessions/s/input", {"content": "think forever"}))
        await before.seen("run_updated", lambda event: event["run"]["status"] == "running")
        await before.daemon.drain(0)
        refused = await call
        assert (refused.status_code, refused.json()["code"]) == (503, "daemon_draining")
        assert (await before.run("run-1"))["status"] == "running"
    async with opened(tmp_path) as after:
        assert "resumed" in await after.event_types("run-1")
        assert (await after.post("/v1/runs/run-1/cancel")).json()["status"] == "cancelled"


async def test_a_damaged_journal_closes_its_session_loudly_and_no_other(tmp_path: Path) -> None:
    async with opened(tmp_path) as before:
        for name in ("broken", "whole"):
            await before.session(name)
            await before.submit("hi", name)
            await before.settled(name)
    damage(tmp_path, "UPDATE journal SET body = '{' WHERE session_id = 'broken' AND position = 3")
    async with opened(tmp_path) as after:
        events = await after.get("/v1/sessions/broken/events")
        refused = await after.post("/v1/sessions/broken/runs", {"content": "again"})
        again = await after.submit("again", "whole")
        await after.settled("whole")

        assert (events.status_code, events.json()["code"]) == (500, "journal_damaged")
        assert "Entry 3" in events.json()["detail"]
        assert (refused.status_code, refused.json()["code"]) == (500, "journal_damaged")
        assert (await after.run(again["run_id"]))["status"] == "completed"
        assert (await after.get("/v1/sessions/broken")).status_code == 200


async def test_a_daemon_boots_with_an_unfinished_run_in_a_damaged_journal(tmp_path: Path) -> None:
    async with opened(tmp_path) as before:
        await before.session("broken")
        await before.submit("count once", "broken")
        await before.settled("broken")
    damage(tmp_path, "UPDATE journal SET type = 'from_the_future' WHERE session_id = 'broken' AND position = 3")
    async with opened(tmp_path) as after:
        await after.session("whole")
        await after.submit("hi", "whole")
        await after.settled("whole")

        assert (await after.run("run-2"))["status"] == "completed"
        assert (await after.run("run-1"))["status"] == "waiting_for_approval"
        assert (await after.post("/v1/runs/run-1/cancel")).json()["code"] == "journal_damaged"


async def test_a_run_that_waits_for_approval_is_the_same_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path) as before:
        await before.session()
        await before.submit("count once")
        await before.settled()
        waiting = await before.run("run-1")
    async with opened(tmp_path) as after:
        assert await after.run("run-1") == waiting
        await allow(after, waiting["pending_approval_ids"])
        assert after.count == ["once"]
        assert (await after.run("run-1"))["status"] == "completed"


async def allow(house: House, request_ids: list[str]) -> None:
    resolutions = [{"request_id": one, "behavior": "allow"} for one in request_ids]
    await house.post("/v1/runs/run-1/approvals", {"resolutions": resolutions})
    await house.settled()


ACTIVE = "daemon restarted while the run was active"


async def left_running(house: House, **fields: object) -> str:
    """Submit a run whose command holds, and return its id."""
    await house.session()
    run = await house.submit("hold", **fields)
    await house.tool_started(run["run_id"])
    return str(run["run_id"])


async def test_under_the_policy_interrupt_a_running_run_is_interrupted_and_the_queue_goes_on(tmp_path: Path) -> None:
    async with opened(tmp_path, permission_mode="bypassPermissions") as before:
        run_id = await left_running(before)
        queued = await before.submit("hi")
    async with opened(tmp_path, restart_policy="interrupt") as after:
        await after.settled()
        ended = await after.run(run_id)
        assert (ended["status"], ended["error"]) == ("interrupted", ACTIVE)
        assert (await after.event_types(run_id))[-1] == "interrupted"
        assert (await after.run(queued["run_id"]))["status"] == "completed"
        assert (await after.get("/v1/runtime")).json()["restart_policy"] == "interrupt"


async def test_a_run_overrides_the_policy_whichever_endpoint_it_came_through(tmp_path: Path) -> None:
    async with opened(tmp_path, permission_mode="bypassPermissions") as before:
        await before.session()
        body = {"content": "hold", "on_restart": "interrupt"}
        call = asyncio.create_task(before.post("/v1/sessions/s/input", body))
        await before.tool_started("run-1")
        await before.daemon.drain(0)
        assert (await call).status_code == 503
    async with opened(tmp_path) as after:
        await after.settled()
        ended = await after.run("run-1")
        assert (ended["status"], ended["error"]) == ("interrupted", ACTIVE)
        assert ended["request"]["on_restart"] == "interrupt"
        assert (await after.get("/v1/runtime")).json()["restart_policy"] == "resume"


async def test_a_call_in_doubt_is_shown_wherever_approvals_are_shown(tmp_path: Path) -> None:
    async with opened(tmp_path, permission_mode="bypassPermissions") as before:
        run_id = await left_running(before, on_in_doubt="ask")
        cursor = (await before.get("/v1/status")).json()["events"]["tail_event_id_cursor"]
    async with opened(tmp_path) as after:
        await after.settled()
        run = await after.run(run_id)
        (request,) = run["pending_approvals"]
        assert (run["status"], run["pending_approval_ids"]) == ("waiting_for_approval", [request["id"]])
        assert (request["in_doubt"], request["tool_name"]) == (True, "bash")
        assert run["request"]["on_in_doubt"] == "ask"
        assert [row["request"] for row in (await after.get("/v1/approvals")).json()] == [request]
        assert (await after.get("/v1/sessions/s")).json()["snapshot"]["pending_approvals"] == [request]
        audit = (await after.get("/v1/sessions/s/permission-audits")).json()[-1]
        assert (audit["scope"], audit["approval_request_id"]) == ("recovery", request["id"])

        events = [entry["event"] for entry in (await after.get(f"/v1/runs/{run_id}/events")).json()]
        resumed, waiting = events[-2:]
        assert (resumed["type"], resumed["in_doubt_call_ids"]) == ("resumed", [request["tool_call_id"]])
        assert (waiting["type"], waiting["requests"]) == ("waiting_for_approval", [request])
        feed = await fed(after, int(cursor))
        assert [run["status"] for run in feed["run_updated"]] == ["running", "waiting_for_approval"]
        assert [state["pending_approvals"] for state in feed["session_state_changed"]][-1] == 1

        after.release()
        await allow(after, [request["id"]])
        assert (await after.run(run_id))["status"] == "completed"


async def test_a_call_in_doubt_that_is_denied_is_told_to_the_model_and_the_run_goes_on(tmp_path: Path) -> None:
    async with opened(tmp_path, permission_mode="bypassPermissions") as before:
        run_id = await left_running(before, on_in_doubt="ask")
    async with opened(tmp_path) as after:
        await after.settled()
        resolution = {"request_id": (await after.run(run_id))["pending_approval_ids"][0], "behavior": "deny"}
        await after.post(f"/v1/runs/{run_id}/approvals", {"resolutions": [resolution]})
        await after.settled()

        assert (await after.run(run_id))["status"] == "completed"
        journal = (await after.get("/v1/sessions/s/events")).json()["session"]["journal"]
        (result,) = [row["event"]["result"] for row in journal if row["event"]["type"] == "tool_call_finished"]
        assert result["is_error"] is True
        assert "may or may not have taken effect and was not repeated" in result["output"]["error"]


async def fed(house: House, cursor: int) -> dict[str, list[Json]]:
    """What the feed holds of each kind since ``cursor``, without the envelope."""
    kinds = {"run_updated": "run", "session_state_changed": None}
    found: dict[str, list[Json]] = {kind: [] for kind in kinds}
    async with asyncio.timeout(DEADLINE_S), house.daemon.board._feed.subscribe(cursor=cursor) as events:
        async for event in Each(events):
            if event.type in found:
                data = decode_object(event.data)
                inside = kinds[event.type]
                found[event.type].append(data if inside is None else data[inside])
            if found["session_state_changed"] and found["session_state_changed"][-1].get("pending_approvals"):
                return found
    raise AssertionError("the feed ended")
