"""Approvals over HTTP (approvals-and-questions cases 1 to 9, 11, 17)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.http.house import House, opened

pytestmark = pytest.mark.anyio


async def waiting(house: House, text: str = "count once") -> dict[str, Any]:
    """Submit a run and return it once it waits for an approval."""
    await house.session()
    run = await house.submit(text)
    await house.settled()
    view: dict[str, Any] = await house.run(run["run_id"])
    assert view["status"] == "waiting_for_approval"
    return view


def allow(*request_ids: str, **fields: Any) -> dict[str, Any]:
    return {"resolutions": [{"request_id": one, "behavior": "allow", **fields} for one in request_ids]}


async def test_a_gated_call_waits_and_shows_what_the_model_asked(house: House) -> None:
    run = await waiting(house)

    [request] = run["pending_approvals"]
    assert run["pending_approval_ids"] == [request["id"]]
    assert request["tool_name"] == "bash"
    assert request["input"] == {"command": "echo once >> count"}
    assert house.count == []
    listed = (await house.get("/v1/approvals")).json()
    assert listed == [
        {"session_id": "s", "agent_id": run["agent_id"], "run_id": "run-1", "run_kind": "input", "request": request}
    ]
    assert (await house.get("/v1/sessions/s/approvals")).json() == listed
    assert (await house.get("/v1/sessions")).json()[0]["pending_approvals"] == 1


async def test_an_allowed_call_runs_once_and_the_model_is_not_asked_again(house: House) -> None:
    run = await waiting(house)
    answer = await house.post("/v1/runs/run-1/approvals", allow(*run["pending_approval_ids"]))
    await house.settled()
    done = await house.run("run-1")

    assert answer.status_code == 202
    assert (answer.json()["run_id"], answer.json()["kind"]) == ("run-1", "approval_resume")
    assert answer.json()["request"]["approval_count"] == 1
    assert "pending_approvals" not in answer.json()
    assert (done["status"], done["kind"]) == ("completed", "approval_resume")
    assert house.count == ["once"]
    types = await house.event_types("run-1")
    assert types == [
        "accepted",
        "queued",
        "started",
        "waiting_for_approval",
        "approval_resolved",
        "output",
        "completed",
    ]
    journal = (await house.get("/v1/sessions/s/events")).json()["session"]["journal"]
    replies = [entry for entry in journal if entry["event"].get("message", {}).get("role") == "assistant"]
    assert len(replies) == 2


async def test_a_denied_call_never_runs_and_the_model_reads_the_reason(house: House) -> None:
    run = await waiting(house)
    denial = {"request_id": run["pending_approval_ids"][0], "behavior": "deny", "reason": "not on a Friday"}
    await house.post("/v1/runs/run-1/approvals", {"resolutions": [denial]})
    await house.settled()
    done = await house.run("run-1")

    assert done["status"] == "completed"
    assert "not on a Friday" in done["outputs"][0]["content"]
    assert house.count == []


async def test_a_replaced_input_is_what_runs(house: House) -> None:
    run = await waiting(house)
    replacement = {"command": "echo replaced >> count"}
    await house.post("/v1/runs/run-1/approvals", allow(*run["pending_approval_ids"], updated_input=replacement))
    await house.settled()
    events = {entry["event"]["type"]: entry["event"] for entry in (await house.get("/v1/runs/run-1/events")).json()}

    assert house.count == ["replaced"]
    assert events["approval_resolved"]["resolutions"][0]["updated_input"] == replacement
    assert events["waiting_for_approval"]["requests"][0]["input"] == {"command": "echo once >> count"}


async def test_one_message_is_one_wave_and_its_calls_run_in_order(house: House) -> None:
    run = await waiting(house, "three calls")
    assert len(run["pending_approval_ids"]) == 2
    await house.post("/v1/runs/run-1/approvals", allow(*run["pending_approval_ids"]))
    await house.settled()
    journal = (await house.get("/v1/sessions/s/events")).json()["session"]["journal"]
    started = [entry["event"]["call"]["name"] for entry in journal if entry["event"]["type"] == "tool_call_started"]

    assert started == ["bash", "list_files", "bash"]
    assert house.count == ["first", "third"]


async def test_a_partial_answer_keeps_the_run_waiting_for_the_rest(house: House) -> None:
    run = await waiting(house, "three calls")
    first, second = run["pending_approval_ids"]
    partly = await house.post("/v1/runs/run-1/approvals", allow(first))

    assert (partly.json()["status"], partly.json()["kind"]) == ("waiting_for_approval", "input")
    assert partly.json()["pending_approval_ids"] == [second]
    assert house.count == []
    await house.post("/v1/runs/run-1/approvals", allow(second))
    await house.settled()
    assert house.count == ["first", "third"]


async def test_the_next_wave_has_ids_of_its_own(house: House) -> None:
    run = await waiting(house, "two waves")
    await house.post("/v1/runs/run-1/approvals", allow(*run["pending_approval_ids"]))
    await house.settled()
    second = await house.run("run-1")
    stale = await house.post("/v1/runs/run-1/approvals", allow(*run["pending_approval_ids"]))

    assert second["status"] == "waiting_for_approval"
    assert set(second["pending_approval_ids"]).isdisjoint(run["pending_approval_ids"])
    assert (stale.status_code, stale.json()["code"]) == (400, "approval_request_not_pending")
    await house.post("/v1/runs/run-1/approvals", allow(*second["pending_approval_ids"]))
    await house.settled()
    assert house.count == ["one", "two"]


async def test_a_batch_is_accepted_as_a_whole_or_not_at_all(house: House) -> None:
    run = await waiting(house, "three calls")
    first, second = run["pending_approval_ids"]
    bodies = {
        "approval_request_not_pending": allow(first, "bogus"),
        "approval_batch_empty": {"resolutions": []},
        "approval_duplicate_resolution": allow(first, first),
    }
    for code, body in bodies.items():
        for path in ("/v1/runs/run-1/approvals", "/v1/sessions/s/approvals", "/v1/sessions/s/approval-runs"):
            refused = await house.post(path, body)
            assert (refused.status_code, refused.json()["domain"], refused.json()["code"]) == (400, "approvals", code)
        assert (await house.run("run-1"))["pending_approval_ids"] == [first, second]
    assert house.count == []


@pytest.mark.parametrize(
    "resolution",
    [
        {"request_id": "a", "behavior": "maybe"},
        {"behavior": "allow"},
        {"request_id": "a"},
        {"request_id": "a", "behavior": "allow", "updated_input": "text"},
    ],
)
async def test_a_resolution_of_the_wrong_shape_is_a_field_error(house: House, resolution: dict[str, Any]) -> None:
    await waiting(house)
    refused = await house.post("/v1/runs/run-1/approvals", {"resolutions": [resolution]})

    assert (refused.status_code, refused.json()["code"]) == (422, "daemon_error")


async def test_a_key_makes_a_repeated_answer_harmless(house: House) -> None:
    run = await waiting(house)
    body = allow(*run["pending_approval_ids"])
    first = await house.post("/v1/runs/run-1/approvals", body, key="k")
    await house.settled()
    again = await house.post("/v1/runs/run-1/approvals", body, key="k")
    other = await house.post("/v1/runs/run-1/approvals", allow("something else"), key="k")
    without = await house.post("/v1/runs/run-1/approvals", body)

    assert (first.status_code, again.status_code) == (202, 202)
    assert (again.json()["run_id"], again.json()["status"]) == ("run-1", "completed")
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")
    assert (without.status_code, without.json()["code"]) == (409, "approval_state_conflict")
    assert house.count == ["once"]


async def test_twenty_answers_at_once_resume_the_run_once(house: House) -> None:
    run = await waiting(house)
    body = allow(*run["pending_approval_ids"])
    replies = await asyncio.gather(*(house.post("/v1/runs/run-1/approvals", body) for _ in range(20)))
    await house.settled()

    assert sorted(reply.status_code for reply in replies) == [202] + [409] * 19
    assert (await house.event_types("run-1")).count("approval_resolved") == 1
    assert house.count == ["once"]


async def test_runs_behind_a_waiting_run_start_when_it_settles(house: House) -> None:
    await waiting(house)
    behind = await house.submit("hi")
    queued = await house.run(behind["run_id"])
    await house.post("/v1/runs/run-1/cancel")
    await house.settled()

    assert (queued["status"], queued["queued_position"]) == ("queued", 1)
    assert (await house.run(behind["run_id"]))["status"] == "completed"


@pytest.mark.parametrize("path", ["approvals", "approval-runs"])
async def test_an_idle_session_has_nothing_to_approve(house: House, path: str) -> None:
    await house.session()
    refused = await house.post(f"/v1/sessions/s/{path}", allow("a"))

    assert (refused.status_code, refused.json()["domain"], refused.json()["code"]) == (
        409,
        "runs",
        "run_state_conflict",
    )


async def test_a_session_resolves_its_active_run_inline_and_detached(house: House) -> None:
    run = await waiting(house, "two waves")
    first = await house.post("/v1/sessions/s/approvals", allow(*run["pending_approval_ids"]), key="k")
    [second] = first.json()["snapshot"]["pending_approvals"]
    detached = await house.post("/v1/sessions/s/approval-runs", allow(second["id"]))
    await house.settled()

    assert first.status_code == 200
    assert first.json()["snapshot"]["agent"]["status"] == "waiting_for_approval"
    assert (detached.status_code, detached.json()["run_id"]) == (202, "run-1")
    assert house.count == ["one", "two"]


async def test_watchers_hear_of_the_wait_and_of_its_end(house: House) -> None:
    run = await waiting(house)
    waits = await house.seen("session_state_changed", lambda event: event["pending_approvals"] == 1)
    await house.post("/v1/runs/run-1/approvals", allow(*run["pending_approval_ids"]))
    await house.settled()

    assert waits["status"] == "waiting_for_approval"
    assert await house.seen("run_updated", lambda event: event["run"]["status"] == "waiting_for_approval")
    assert await house.seen("run_updated", lambda event: event["run"]["kind"] == "approval_resume")
    assert await house.seen("session_state_changed", lambda event: event["status"] == "completed")


async def test_pending_approvals_come_in_pages(house: House) -> None:
    for name in ("a", "b", "c"):
        await house.session(name)
        await house.submit("count once", name)
        await house.settled(name)
    page = (await house.get("/v1/approvals", page="true", limit=2)).json()
    rest = (await house.get("/v1/approvals", cursor=page["pagination"]["next_cursor"])).json()

    assert page["pagination"]["order"] == "session_id_asc,request_id_asc"
    assert page["pagination"]["total_count"] == 3
    assert [row["session_id"] for row in page["items"] + rest["items"]] == ["a", "b", "c"]
    assert [row["session_id"] for row in (await house.get("/v1/approvals", session_id="b")).json()] == ["b"]


async def test_the_answer_shows_what_the_run_has_put_out_so_far(tmp_path: Path) -> None:
    script = """
[[rules]]
when = { turn = 0 }
calls = [{ tool = "emit_output", input = { content = "half way" } }]
[[rules]]
when = { turn = 1 }
calls = [{ tool = "bash", input = { command = "true" } }]
[fallback]
text = "done"
"""
    async with opened(tmp_path, script=script) as house:
        run = await waiting(house, "go")
        answered = await house.post("/v1/runs/run-1/approvals", allow(*run["pending_approval_ids"]))

    assert run["outputs"][0]["content"] == "half way"
    assert answered.json()["outputs"][0]["content"] == "half way"
    assert "pending_approvals" not in answered.json()


@pytest.mark.parametrize("kind", ["approvals", "questions"])
async def test_an_unknown_session_is_an_empty_filter_and_a_missing_resource(house: House, kind: str) -> None:
    filtered = await house.get(f"/v1/{kind}", session_id="nobody")
    owned = await house.get(f"/v1/sessions/nobody/{kind}")

    assert (filtered.status_code, filtered.json()) == (200, [])
    assert (owned.status_code, owned.json()["code"]) == (404, "session_not_found")
