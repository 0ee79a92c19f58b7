"""Routes that are added, replaced and removed while the daemon runs."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.model_server import Answer, ModelServer
from tests.http.house import House, opened

pytestmark = pytest.mark.anyio

ENV = {"KHEISH_AUTH_STORE_MASTER_KEY": base64.b64encode(bytes(range(32))).decode()}
SECRET = {"slot_id": "live.key", "provider": "generic", "mode": "opaque_secret", "state": {"value": "hunter2-live"}}


def chat(server: ModelServer, **fields: Any) -> dict[str, Any]:
    return {"driver": "openai_compatible", "default_model": "m", "base_url": server.url, **fields}


async def add(house: House, route_id: str, route: Any, **fields: Any) -> Any:
    return await house.post("/v1/runtime/routes", {"route_id": route_id, "route": route, **fields})


async def answer(house: House, **fields: Any) -> str:
    run = await house.submit("go", **fields)
    await house.settled()
    view = await house.run(run["run_id"])
    return str(view["outputs"][-1]["content"] if view["status"] == "completed" else view["error"])


async def test_a_daemon_without_routes_gets_its_first_one_and_keeps_it_over_a_restart(tmp_path: Path) -> None:
    empty = {"routes": "[routes.x]\n", "environ": ENV, "allow_empty_routes": True}
    with ModelServer(Answer(text="alive")) as server:
        async with opened(tmp_path, **empty) as house:
            await house.session()
            refused = await house.post("/v1/sessions/s/runs", {"content": "go"})
            early = await add(house, "live", chat(server, auth_ref="live.key"))
            await house.post("/v1/runtime/secrets", SECRET)
            added = await add(house, "live", chat(server, auth_ref="live.key"))
            assert await answer(house) == "alive"
        async with opened(tmp_path, **empty) as house:
            assert await answer(house) == "alive"
            await house.client.delete("/v1/runtime/secrets/live.key")
        async with opened(tmp_path, **empty) as house:
            unready = await house.post("/v1/sessions/s/runs", {"content": "go"})

    assert (refused.status_code, refused.json()["code"]) == (409, "route_not_ready")
    assert (early.status_code, early.json()["code"]) == (400, "route_invalid")
    assert "secrets set live.key" in early.json()["detail"]
    assert (added.status_code, added.json()["route_id"]) == (200, "live")
    assert server.requests[0].headers["authorization"] == "Bearer hunter2-live"
    assert (unready.status_code, unready.json()["code"]) == (409, "route_not_ready")
    assert "hunter2" not in added.text


async def test_a_route_of_the_file_is_replaced_and_back_when_the_replacement_is_removed(tmp_path: Path) -> None:
    with ModelServer(Answer(text="file")) as file, ModelServer(Answer(text="live")) as live:
        routes = f'[routes.main]\ndriver = "openai_compatible"\ndefault_model = "m"\nbase_url = "{file.url}"\n'
        async with opened(tmp_path, routes=routes) as house:
            await house.session()
            before = await answer(house)
            await add(house, "main", chat(live))
            replaced = await answer(house)
            gone = await house.client.delete("/v1/runtime/routes/main")
            back = await answer(house)
            again = await house.client.delete("/v1/runtime/routes/main")
            revisions = (await house.get("/v1/runtime/revisions")).json()

    assert (before, replaced, back) == ("file", "live", "file")
    assert gone.status_code == 200
    assert (again.status_code, again.json()["code"]) == (409, "route_of_file")
    assert [revision["setting"] for revision in revisions] == ["routes", "routes"]


async def test_a_run_that_waits_on_a_removed_route_fails_by_name_and_the_default_stays(tmp_path: Path) -> None:
    with ModelServer(Answer(text="other")) as server:
        async with opened(tmp_path) as house:
            await house.session()
            await house.session("t")
            script = {"driver": "scripted", "default_model": "m", "script": "script.toml"}
            await add(house, "extra", script)
            waiting = await house.submit("count once", provider="extra")
            await house.settled()
            removed = await house.post("/v1/runtime/routes", {"route_id": "extra", "route": None})
            view = await house.run(waiting["run_id"])
            asked = [{"request_id": each["id"], "behavior": "allow"} for each in view["pending_approvals"]]
            await house.post(f"/v1/runs/{waiting['run_id']}/approvals", {"resolutions": asked})
            await house.settled()
            failed = await house.run(waiting["run_id"])
            await add(house, "new", chat(server), make_default=True)
            default = await house.client.delete("/v1/runtime/routes/new")
            unknown = await house.client.delete("/v1/runtime/routes/nothing")
            assert await answer(house) == "other"

    assert removed.status_code == 200
    assert failed["status"] == "failed"
    assert "'extra'" in failed["error"]
    assert (default.status_code, default.json()["code"]) == (409, "route_is_default")
    assert (unknown.status_code, unknown.json()["code"]) == (400, "unknown_route")


@pytest.mark.parametrize(
    ("route_id", "route", "said"),
    [
        ("x", {"driver": "openai", "default_model": "gpt-5", "api_key": "sk-hunter2"}, "auth_ref"),
        ("x", {"driver": "nothing", "default_model": "m"}, "driver"),
        ("x", {"driver": "openai_compatible", "default_model": "m"}, "base_url"),
        ("x", {"driver": "openai_compatible", "default_model": "m", "base_url": "ftp://hunter2"}, "base_url"),
        ("x", {"driver": "anthropic", "default_model": "claude-x", "hunter2": "hunter2"}, "unknown key"),
        ("a b", {"driver": "anthropic", "default_model": "claude-x"}, "white space"),
        ("a/b", {"driver": "anthropic", "default_model": "claude-x"}, "'/'"),
    ],
)
async def test_a_route_that_cannot_be_is_refused_by_key_and_nothing_changes(
    tmp_path: Path, route_id: str, route: Any, said: str
) -> None:
    async with opened(tmp_path) as house:
        before = (await house.get("/v1/runtime")).json()
        refused = await add(house, route_id, route)
        stale = await add(house, "x", {"driver": "anthropic", "default_model": "claude-x"}, expected_revision=7)
        after = (await house.get("/v1/runtime")).json()

    assert (refused.status_code, refused.json()["code"]) == (400, "route_invalid")
    assert said in refused.json()["detail"]
    assert "hunter2" not in refused.text.replace("'hunter2'", "") or said == "unknown key"
    assert stale.json()["code"] == "runtime_revision_conflict"
    assert after == before


async def test_a_changed_default_of_the_file_counts_although_other_settings_were_stored(tmp_path: Path) -> None:
    async with opened(tmp_path) as house:
        await house.post("/v1/runtime/permission-mode", {"mode": "acceptEdits"})
        assert (await house.get("/v1/runtime")).json()["route_id"] == "one"
    async with opened(tmp_path, default_route="two") as house:
        assert (await house.get("/v1/runtime")).json()["route_id"] == "two"


async def test_what_was_loaded_is_written_down_and_a_changed_file_is_drift(tmp_path: Path) -> None:
    async with opened(tmp_path) as house:
        file = tmp_path / "routes.toml"
        loaded = hashlib.sha256(file.read_bytes()).hexdigest()
        written = json.loads((tmp_path / "state" / "route-inventory.json").read_text())
        same = (await house.get("/v1/status")).json()["route_inventory"]
        file.write_text(file.read_text() + "\n# a comment\n")
        changed = (await house.get("/v1/status")).json()["route_inventory"]
        file.unlink()
        gone = (await house.get("/v1/status")).json()["route_inventory"]

    assert written == {
        "version": 1,
        "source_kind": "routes_file",
        "routes_file_path": str(file.resolve()),
        "routes_file_sha256": loaded,
        "loaded_at_ms": written["loaded_at_ms"],
        "default_route": "one",
        "route_ids": ["one", "two"],
    }
    assert (same["drift"], changed["drift"], gone["drift"]) == ("none", "changed", "unreadable")
    assert loaded[:16] in changed["drift_hashes"]


async def test_an_added_route_is_in_the_written_inventory_and_uses_the_key_of_its_variable(tmp_path: Path) -> None:
    with ModelServer(Answer(text="ok")) as server:
        environ = {**ENV, "LIVE_KEY": "hunter2-from-environment"}
        async with opened(tmp_path, environ=environ) as house:
            await house.session()
            await add(house, "extra", chat(server, api_key_env="LIVE_KEY"))
            written = json.loads((tmp_path / "state" / "route-inventory.json").read_text())
            assert await answer(house, provider="extra") == "ok"

    assert written["route_ids"] == ["one", "two", "extra"]
    assert server.requests[0].headers["authorization"] == "Bearer hunter2-from-environment"
