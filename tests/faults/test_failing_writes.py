"""A disk that is full or fails: nothing accepted is lost, nothing refused is half there, and it heals by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kheish.engine import engine as engine_module
from tests.faults.disks import Disk, Fault
from tests.http.house import House, opened

pytestmark = pytest.mark.anyio

NOTHING_WRITTEN = [Fault.FULL, Fault.SYNC]


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """The product looks again every five seconds."""
    monkeypatch.setattr(engine_module, "_STORE_RETRY_MS", 20)


async def completed(house: House, run_id: str) -> None:
    """Wait until this run is; while the store fails, asking the engine fails as well."""
    await house.seen(
        "run_updated", lambda event: event["run"]["run_id"] == run_id and event["run"]["status"] == "completed"
    )


async def status(house: House) -> Any:
    return (await house.get("/v1/status")).json()


def warnings(found: Any) -> set[str]:
    return {warning["code"] for warning in found["health"]["warnings"]}


@pytest.mark.parametrize("fault", NOTHING_WRITTEN)
async def test_a_refused_submission_leaves_nothing_and_reads_go_on(tmp_path: Path, fault: Fault) -> None:
    disk = Disk()
    async with opened(tmp_path, open_database=disk.open) as house:
        await house.session()
        done = await house.submit("hi")
        await house.settled()
        disk.fault = fault
        refused = await house.post("/v1/sessions/s/runs", {"content": "hi"})
        session = await house.post("/v1/sessions", {"session_id": "t"})
        broken = await status(house)

        assert (refused.status_code, refused.json()["domain"], refused.json()["code"]) == (
            503,
            "storage",
            "store_unavailable",
        )
        assert session.status_code == 503
        assert await house.run_count() == 1
        assert (await house.run(done["run_id"]))["status"] == "completed"
        storage = broken["storage"]
        assert (storage["store_writable"], storage["write_error_count"] >= 2) == (False, True)
        assert (storage["last_error"]["code"], broken["health"]["ok"]) == ("store_unavailable", False)
        assert storage["last_error"]["message"] in ("database or disk is full", "disk I/O error")
        assert "store_not_writable" in warnings(broken)

        disk.fault = None
        again = await house.submit("hi")
        await house.settled()
        healed = await status(house)
        assert (await house.run(again["run_id"]))["status"] == "completed"
        assert again["run_id"] != done["run_id"]
        assert healed["storage"]["store_writable"] is True
        assert "store_not_writable" not in warnings(healed)


@pytest.mark.parametrize("fault", Fault)
async def test_a_run_in_the_middle_of_its_work_goes_on_when_the_disk_does(tmp_path: Path, fault: Fault) -> None:
    """The command is running when the disk fails; its result is kept, or it is told as in doubt, never run twice."""
    disk = Disk()
    async with opened(tmp_path, open_database=disk.open, permission_mode="bypassPermissions") as house:
        await house.session()
        run = await house.submit("count once")
        held = await house.submit("hold")
        await house.tool_started(held["run_id"])
        disk.fault, disk.heal_after = fault, 3
        house.release()
        for run_id in (run["run_id"], held["run_id"]):
            await completed(house, run_id)

        assert house.count == ["once"]


@pytest.mark.parametrize("fault", NOTHING_WRITTEN)
async def test_what_was_refused_is_not_there_after_a_restart_and_what_was_accepted_is(
    tmp_path: Path, fault: Fault
) -> None:
    disk = Disk()
    async with opened(tmp_path, open_database=disk.open) as house:
        await house.session()
        accepted = await house.submit("count once")
        await house.settled()
        disk.fault = fault
        for _ in range(3):
            assert (await house.post("/v1/sessions/s/runs", {"content": "hi"})).status_code == 503
    async with opened(tmp_path) as house:
        await house.settled()
        runs = (await house.get("/v1/runs")).json()

    assert [run["run_id"] for run in runs] == [accepted["run_id"]]
    assert runs[0]["status"] == "waiting_for_approval"


async def test_an_answer_that_was_lost_is_found_again_with_its_key(tmp_path: Path) -> None:
    """The commit went through although the disk said that it did not."""
    disk = Disk()
    async with opened(tmp_path, open_database=disk.open) as house:
        await house.session()
        disk.fault, disk.heal_after = Fault.LOST_ANSWER, 1
        first = await house.post("/v1/sessions/s/runs", {"content": "hi"}, key="mine")
        again = await house.post("/v1/sessions/s/runs", {"content": "hi"}, key="mine")
        await completed(house, again.json()["run_id"])

        assert (first.status_code, again.status_code) == (202, 202)
        assert first.json()["run_id"] == again.json()["run_id"]
        assert await house.run_count() == 1


async def test_without_a_key_a_lost_answer_is_a_refusal_and_the_session_goes_on(tmp_path: Path) -> None:
    disk = Disk()
    async with opened(tmp_path, open_database=disk.open) as house:
        await house.session()
        disk.fault, disk.heal_after = Fault.LOST_ANSWER, 1
        refused = await house.post("/v1/sessions/s/runs", {"content": "hi"})
        assert refused.status_code == 503
        run = await house.submit("hi")
        await completed(house, run["run_id"])


async def test_an_approval_the_disk_refuses_still_waits(tmp_path: Path) -> None:
    disk = Disk()
    async with opened(tmp_path, open_database=disk.open) as house:
        await house.session()
        run = await house.submit("count once")
        await house.settled()
        waiting = await house.run(run["run_id"])
        body = {"resolutions": [{"request_id": one, "behavior": "allow"} for one in waiting["pending_approval_ids"]]}
        disk.fault = Fault.FULL
        refused = await house.post(f"/v1/runs/{run['run_id']}/approvals", body)

        assert refused.status_code == 503
        assert (await house.run(run["run_id"]))["pending_approval_ids"] == waiting["pending_approval_ids"]
        assert house.count == []
        disk.fault = None
        assert (await house.post(f"/v1/runs/{run['run_id']}/approvals", body)).status_code == 202
        await house.settled()
        assert house.count == ["once"]


async def test_one_disk_fault_among_many_sessions_costs_no_run(tmp_path: Path) -> None:
    disk = Disk()
    async with opened(tmp_path, open_database=disk.open, permission_mode="bypassPermissions") as house:
        names = [f"s{number}" for number in range(12)]
        for name in names:
            await house.session(name)
        runs = [await house.submit("hi", name) for name in names]
        disk.fault, disk.heal_after = Fault.SYNC, 15
        for run in runs:
            await completed(house, run["run_id"])
