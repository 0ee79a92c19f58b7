"""Runtime configuration over HTTP (permissions-and-hooks cases 1, 2, 3, 12; tools case 16)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.http.house import House, opened

pytestmark = pytest.mark.anyio

CHECK = "/v1/runtime/permissions/check"
TOOLS = (
    "bash",
    "write_file",
    "mcp__x__y",
    "read_mcp_resource",
    "read_file",
    "exit_plan_mode",
    "todo_write",
    "emit_output",
)
MODES = {
    "default": "ask ask ask ask allow ask allow allow",
    "acceptEdits": "ask allow ask ask allow ask allow allow",
    "bypassPermissions": "allow allow allow allow allow allow allow allow",
    "plan": "deny deny deny ask allow ask deny deny",
    "dontAsk": "deny deny deny deny allow deny allow allow",
}


async def explain(house: House, tool_name: str, **fields: Any) -> dict[str, Any]:
    response = await house.post(CHECK, {"tool_name": tool_name, **fields})
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


async def test_a_fresh_daemon_asks_before_commands_and_lets_reading_pass(house: House) -> None:
    bash = await explain(house, "bash", tool_call_id="c1")
    read = await explain(house, "read_file")

    assert (bash["decision"], bash["base_decision"]) == ("ask", "ask")
    assert (bash["matched_rule"], bash["matched_rule_origin"]) == ("bash", "static")
    assert (bash["approval_required"], bash["hooks_evaluated"]) == (True, False)
    assert bash["hook_policy"] == "not_executed_in_dry_run"
    assert bash["audit_preview"]["approval_request_id"] == "dry-run"
    assert (read["decision"], read["matched_rule"]) == ("allow", "*")


@pytest.mark.parametrize("mode", MODES)
async def test_each_mode_changes_what_the_rules_say(house: House, mode: str) -> None:
    decided = [(await explain(house, name, mode_override=mode))["decision"] for name in TOOLS]

    assert decided == MODES[mode].split()


async def test_a_dry_run_changes_nothing(house: House) -> None:
    before = (await house.get("/v1/runtime")).json()
    await explain(house, "bash", mode_override="plan")

    assert (await house.get("/v1/runtime")).json() == before


async def test_the_matrix_shows_every_tool_in_every_mode(house: House) -> None:
    matrix = (await house.post("/v1/runtime/permissions/matrix", {})).json()
    rows = {row["tool_name"]: row["decisions"] for row in matrix["tools"]}

    assert matrix["modes"] == list(MODES)
    assert rows["bash"] == dict(zip(MODES, ("ask", "ask", "allow", "deny", "deny"), strict=True))
    assert set(rows) == set((await house.get("/v1/runtime")).json()["tools"])


async def test_checks_of_unknown_sessions_and_modes_are_refused(house: House) -> None:
    unknown = await house.post(CHECK, {"tool_name": "bash", "session_id": "nobody"})
    matrix = await house.post("/v1/runtime/permissions/matrix", {"session_id": "nobody"})
    mode = await house.post(CHECK, {"tool_name": "bash", "mode_override": "yolo"})

    assert (unknown.status_code, unknown.json()["code"]) == (404, "session_not_found")
    assert (matrix.status_code, matrix.json()["code"]) == (404, "session_not_found")
    assert (mode.status_code, mode.json()["code"]) == (400, "bad_request")


async def test_a_mode_change_counts_for_later_calls_and_leaves_pending_approvals(house: House) -> None:
    await house.session("a")
    await house.submit("count once", "a")
    await house.settled("a")
    changed = await house.post("/v1/runtime/permission-mode", {"mode": "bypassPermissions"})
    await house.session("b")
    await house.submit("count once", "b")
    await house.settled("b")

    assert changed.json()["permission_mode"] == "bypassPermissions"
    assert (await house.run("run-1"))["status"] == "waiting_for_approval"
    assert (await house.run("run-2"))["status"] == "completed"
    assert house.count == ["once"]


async def test_twenty_changes_at_once_are_twenty_revisions(house: House) -> None:
    modes = ["plan", "default"] * 10
    replies = await asyncio.gather(*(house.post("/v1/runtime/permission-mode", {"mode": mode}) for mode in modes))
    revisions = [reply.json()["config"]["revision"] for reply in replies]

    assert sorted(revisions) == list(range(1, 21))
    kept = (await house.get("/v1/runtime/revisions")).json()
    assert [entry["revision"] for entry in kept] == list(range(20, 0, -1))
    assert kept[0]["setting"] == "permission_mode"


async def test_of_changes_with_one_expected_revision_one_wins(house: House) -> None:
    body = {"mode": "plan", "expected_revision": 0}
    replies = await asyncio.gather(*(house.post("/v1/runtime/permission-mode", body) for _ in range(20)))

    assert sorted(reply.status_code for reply in replies) == [200] + [409] * 19
    assert {reply.json().get("code") for reply in replies if reply.status_code == 409} == {"runtime_revision_conflict"}
    assert (await house.get("/v1/runtime")).json()["config"]["revision"] == 1


async def test_settings_survive_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path) as before:
        await before.post("/v1/runtime/permission-mode", {"mode": "acceptEdits"})
        await before.post("/v1/runtime/model", {"provider": "one", "model": "mine"})
        old = (await before.get("/v1/runtime")).json()
    async with opened(tmp_path) as after:
        assert (await after.get("/v1/runtime")).json() == old
        await after.session()
        assert (await after.submit("hi"))["request"]["model"] == "mine"


async def test_a_stored_route_that_is_gone_falls_back_to_the_configured_default(tmp_path: Path) -> None:
    async with opened(tmp_path) as before:
        await before.post("/v1/runtime/model", {"provider": "two", "model": "model-two"})
        assert (await before.get("/v1/runtime")).json()["route_id"] == "two"
    routes = '[routes.one]\ndriver = "scripted"\ndefault_model = "m"\nscript = "script.toml"\n'
    async with opened(tmp_path, routes=routes) as after:
        assert (await after.get("/v1/runtime")).json()["route_id"] == "one"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"provider": "nowhere", "model": "m"}, 400, "unknown_route"),
        ({"provider": "two", "model": " "}, 400, "model_not_supported"),
        ({"provider": "one"}, 422, "daemon_error"),
        ({"provider": "one", "model": "m", "expected_revision": 9}, 409, "runtime_revision_conflict"),
        ({"provider": "one", "model": "m", "expected_revision": -1}, 422, "daemon_error"),
    ],
)
async def test_a_model_that_cannot_be_is_refused(house: House, body: dict[str, Any], status: int, code: str) -> None:
    response = await house.post("/v1/runtime/model", body)

    assert (response.status_code, response.json()["code"]) == (status, code)
    assert (await house.get("/v1/runtime")).json()["config"]["revision"] == 0


async def test_the_tool_limits_are_replaced_as_a_whole(house: House) -> None:
    limits = (await house.get("/v1/runtime/tool-limits")).json()
    changed = await house.post("/v1/runtime/tool-limits", {"limits": {**limits, "max_parallel_tools": 2}})

    assert limits["max_calls_per_turn"] == 256
    assert changed.json()["tool_limits"]["max_parallel_tools"] == 2
    assert (await house.get("/v1/runtime/tool-limits")).json()["max_parallel_tools"] == 2


@pytest.mark.parametrize(
    "change",
    [
        {"max_timeout_ms": 0},
        {"max_output_bytes": -1},
        {"max_sandbox": "moon"},
        {"extra": 1},
        {"max_input_bytes": 2**60},
    ],
)
async def test_limits_that_cannot_be_are_refused(house: House, change: dict[str, Any]) -> None:
    limits = (await house.get("/v1/runtime/tool-limits")).json()
    refused = await house.post("/v1/runtime/tool-limits", {"limits": {**limits, **change}})
    partial = await house.post("/v1/runtime/tool-limits", {"limits": {"max_timeout_ms": 5}})

    assert (refused.status_code, refused.json()["domain"]) == (400, "runtime")
    assert refused.json()["code"] == partial.json()["code"] == "invalid_tool_runtime_limits"
    assert (await house.get("/v1/runtime/tool-limits")).json() == limits


async def test_watchers_hear_of_a_new_revision(house: House) -> None:
    await house.post("/v1/runtime/permission-mode", {"mode": "plan"})
    event = await house.seen("runtime_updated")

    assert event["runtime"] == (await house.get("/v1/runtime")).json()
