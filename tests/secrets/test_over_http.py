"""Secrets of a running daemon: write-only, rotated at once, and used by routes."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from kheish.daemon.composition import open_daemon
from kheish.daemon.settings import from_options
from kheish.providers.tables import RoutesError
from kheish.secrets import offline
from tests.fakes.model_server import Answer, ModelServer, Refusal, Request
from tests.http.house import House, opened

pytestmark = pytest.mark.anyio

KEY = base64.b64encode(bytes(range(32))).decode()
ENV = {"KHEISH_AUTH_STORE_MASTER_KEY": KEY}
ROUTES = """
[routes.main]
driver = "openai_compatible"
default_model = "m"
base_url = "{url}"
auth_ref = "local.key"
"""


def record(secret: str, slot_id: str = "local.key", **changed: Any) -> dict[str, Any]:
    fields = {"slot_id": slot_id, "provider": "generic", "mode": "opaque_secret", "state": {"value": secret}}
    return {**fields, **changed}


async def test_secrets_are_kept_listed_rotated_and_removed_without_ever_being_shown(tmp_path: Path) -> None:
    async with opened(tmp_path, environ=ENV) as house:
        created = await house.post("/v1/runtime/secrets", record("hunter2-first"))
        rotated = await house.post("/v1/runtime/secrets", record("hunter2-second"))
        listed = await house.get("/v1/runtime/secrets")
        got = await house.get("/v1/runtime/secrets/local.key")
        gone = await house.client.delete("/v1/runtime/secrets/local.key")
        again = await house.client.delete("/v1/runtime/secrets/local.key")
        missing = await house.get("/v1/runtime/secrets/local.key")

    assert created.status_code == rotated.status_code == 200
    assert set(got.json()) == {"slot_id", "provider", "mode", "summary", "updated_at_ms"}
    assert listed.json() == [got.json()] == [rotated.json()]
    assert (gone.json(), again.json()) == ({"accepted": True}, {"accepted": False})
    assert (missing.status_code, missing.json()["code"]) == (404, "secret_not_found")
    for response in (created, rotated, listed, got):
        assert "hunter2" not in response.text


async def test_a_secret_survives_a_restart_and_is_sealed_on_disk(tmp_path: Path) -> None:
    async with opened(tmp_path, environ=ENV) as house:
        await house.post("/v1/runtime/secrets", record("hunter2-first"))
    async with opened(tmp_path, environ=ENV) as house:
        assert (await house.get("/v1/runtime/secrets/local.key")).status_code == 200

    for path in (tmp_path / "state").rglob("*"):
        assert not path.is_file() or b"hunter2" not in path.read_bytes(), path


async def test_without_a_master_key_nothing_can_be_written(tmp_path: Path) -> None:
    async with opened(tmp_path) as house:
        refused = await house.post("/v1/runtime/secrets", record("hunter2"))

    assert (refused.status_code, refused.json()["code"]) == (409, "master_key_missing")
    assert "KHEISH_AUTH_STORE_MASTER_KEY_FILE" in refused.json()["detail"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (record("hunter2", provider="hunter2"), 400),
        (record(" "), 400),
        (record("hunter2", state={"value": ["hunter2"]}), 400),
        (record("hunter2", state="hunter2"), 422),
        (record("hunter2", extra="hunter2"), 422),
        ({"slot_id": "x"}, 422),
    ],
)
async def test_a_bad_record_is_refused_without_repeating_it(tmp_path: Path, body: Any, status: int) -> None:
    async with opened(tmp_path, environ=ENV) as house:
        refused = await house.post("/v1/runtime/secrets", body)
        listed = await house.get("/v1/runtime/secrets")

    assert refused.status_code == status
    assert "hunter2" not in refused.text
    assert listed.json() == []


async def test_a_disk_that_refuses_leaves_the_old_secret_in_force(tmp_path: Path) -> None:
    async with opened(tmp_path, environ=ENV) as house:
        await house.post("/v1/runtime/secrets", record("hunter2"))
        before = await house.get("/v1/runtime/secrets")
        folder = tmp_path / "state" / "auth"
        folder.rename(folder.with_name("elsewhere"))
        folder.write_text("a file where the folder should be")
        refused = await house.post("/v1/runtime/secrets", record("other"))
        after = await house.get("/v1/runtime/secrets")

    assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
    assert after.json() == before.json()


async def _answered(house: House, text: str) -> str:
    run = await house.submit(text)
    await house.settled()
    return str((await house.run(run["run_id"]))["status"])


async def test_a_route_uses_the_secret_it_names_and_a_rotated_one_at_once(tmp_path: Path) -> None:
    seen: list[str] = []

    def respond(request: Request) -> Answer:
        seen.append(request.headers.get("authorization", ""))
        return Answer(text="ok")

    offline.set_slot(tmp_path / "state", record("hunter2-one"), ENV)
    with ModelServer(respond) as server:
        async with opened(tmp_path, routes=ROUTES.format(url=server.url), environ=ENV) as house:
            await house.session()
            assert await _answered(house, "hi") == "completed"
            await house.post("/v1/runtime/secrets", record("hunter2-two"))
            assert await _answered(house, "hi") == "completed"
            status = (await house.get("/v1/status")).json()["provider_readiness"]["routes"][0]
            await house.client.delete("/v1/runtime/secrets/local.key")
            count = await house.run_count()
            refused = await house.post("/v1/sessions/s/runs", {"content": "hi"})
            broken = (await house.get("/v1/status")).json()["provider_readiness"]["routes"][0]

            assert await house.run_count() == count
    assert seen == ["Bearer hunter2-one", "Bearer hunter2-two"]
    assert (status["state"], status["code"], status["auth_ref"]) == ("ok", "slot", "local.key")
    assert (refused.status_code, refused.json()["domain"], refused.json()["code"]) == (409, "routes", "route_not_ready")
    assert (broken["state"], broken["code"]) == ("error", "slot_missing")
    assert "hunter2" not in str(status) + str(broken)


@pytest.mark.parametrize(("refusals", "status"), [(1, "completed"), (2, "failed"), (9, "failed")])
async def test_a_refused_key_of_the_store_is_fetched_again_once(tmp_path: Path, refusals: int, status: str) -> None:
    """Case 20 of the providers' contract."""

    def respond(request: Request) -> Answer | Refusal:
        refused = request.number < refusals
        return Refusal(status=401, body={"error": {"message": "no such key"}}) if refused else Answer(text="ok")

    offline.set_slot(tmp_path / "state", record("hunter2-one"), ENV)
    with ModelServer(respond) as server:
        async with opened(tmp_path, routes=ROUTES.format(url=server.url), environ=ENV) as house:
            await house.session()
            assert await _answered(house, "hi") == status
            count = len(server.requests)
            if status == "failed":
                again = await _answered(house, "once more")
                assert again == ("completed" if refusals == 2 else "failed")

    assert count == 2


async def test_a_refused_key_from_elsewhere_is_not_tried_again(tmp_path: Path) -> None:
    with ModelServer(Refusal(status=401, body={"error": {"message": "no such key"}})) as server:
        routes = ROUTES.format(url=server.url).replace('auth_ref = "local.key"', 'api_key = "hunter2-inline"')
        async with opened(tmp_path, routes=routes, environ=ENV) as house:
            await house.session()
            assert await _answered(house, "hi") == "failed"

    assert len(server.requests) == 1


async def test_a_secret_of_another_provider_makes_the_route_unready(tmp_path: Path) -> None:
    anthropic = record("k", provider="anthropic", mode="api_key", state={"api_key": "hunter2"})
    offline.set_slot(tmp_path / "state", anthropic, ENV)
    routes = ROUTES.format(url="http://127.0.0.1:1")
    async with opened(tmp_path, routes=routes, environ=ENV) as house:
        await house.session()
        refused = await house.post("/v1/sessions/s/runs", {"content": "hi"})

    assert refused.json()["code"] == "route_not_ready"
    assert "not a key for openai_compatible" in refused.json()["detail"]


async def test_a_route_whose_secret_does_not_exist_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "workspace").mkdir()
    (tmp_path / "routes.toml").write_text(ROUTES.format(url="http://127.0.0.1:1"))
    options = {
        "state_root": str(tmp_path / "state"),
        "workspace_root": str(tmp_path / "workspace"),
        "routes_file": str(tmp_path / "routes.toml"),
    }
    with pytest.raises(RoutesError, match=r"the secret slot 'local.key' does not exist"):
        async with open_daemon(from_options(options, ENV)):
            pass


SHOW = """
[[rules]]
name = "show the key"
when = { turn = 0, user = "show" }
calls = [{ tool = "bash", input = { command = "cat key; echo \\"{\\\\\\"k\\\\\\": \\\\\\"$(cat key)\\\\\\"}\\" >&2" } }]

[fallback]
text = "I saw: ${result}"
"""


async def test_a_secret_a_command_prints_is_masked_before_anyone_sees_it(tmp_path: Path) -> None:
    for secret in ("hunter2-first-key", "hunter2-second-key"):
        offline.set_slot(tmp_path / "state", record(secret), ENV)
    async with opened(tmp_path, script=SHOW, environ=ENV, permission_mode="bypassPermissions") as house:
        await house.post("/v1/runtime/secrets", record("hunter2-third-key"))
        await house.session()
        for secret in ("hunter2-second-key", "hunter2-third-key"):
            (house.workspace / "key").write_text(secret)
            await house.submit("show")
            await house.settled()
        events = await house.get("/v1/sessions/s/events")

    assert "[redacted]" in events.text
    assert "hunter2" not in events.text
    for path in (tmp_path / "state").rglob("*"):
        assert not path.is_file() or b"hunter2" not in path.read_bytes(), path
