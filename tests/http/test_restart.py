"""What a restart finds (events-and-recovery cases 5 and 6 as decision 14 reads them), and what a drain leaves."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from tests.http.house import House, opened

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
