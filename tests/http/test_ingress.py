"""Nothing that is refused leaves a run behind (sessions-and-runs case 5)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.http.house import House, opened

pytestmark = pytest.mark.anyio

ASSET = {"type": "inline_asset", "file_name": "a.png", "content_base64": "AAAA"}

REFUSED: list[tuple[dict[str, Any], int, str]] = [
    ({}, 400, "bad_request"),
    ({"content": "  "}, 400, "bad_request"),
    ({"input_items": [{"type": "text", "text": " "}]}, 400, "bad_request"),
    ({"content": "a", "input_items": [{"type": "text", "text": "b"}]}, 400, "bad_request"),
    ({"attachments": [{**ASSET, "file_name": " "}]}, 400, "bad_request"),
    ({"attachments": [{**ASSET, "content_base64": ""}]}, 400, "bad_request"),
    ({"attachments": [{"type": "asset_reference", "asset_id": ""}]}, 400, "bad_request"),
    ({"input_items": [{"type": "board_reference", "board_id": " "}]}, 400, "bad_request"),
    ({"input_items": [{"type": "board_reference", "board_id": "b", "revision_id": ""}]}, 400, "bad_request"),
    ({"content": "a", "attachments": [ASSET]}, 400, "assets_unavailable"),
    ({"input_items": [{"type": "asset_reference", "asset_id": "a"}]}, 400, "assets_unavailable"),
    ({"input_items": [{"type": "board_reference", "board_id": "b"}]}, 400, "assets_unavailable"),
    ({"content": "a", "provider": "nowhere"}, 400, "unknown_route"),
    ({"content": "a", "provider": "two", "generation": {"model": ""}, "input_items": "x"}, 422, "daemon_error"),
    ({"content": "a", "generation": {"tool_choice": "always"}}, 422, "daemon_error"),
    ({"content": "a", "generation": {"tool_choice": {"type": "specific"}}}, 422, "daemon_error"),
    ({"content": "a", "generation": {"max_output_tokens": 0}}, 422, "daemon_error"),
    ({"content": "a", "generation": {"max_output_tokens": 10**30}}, 422, "daemon_error"),
    ({"content": "a", "generation": {"response_format": {"type": "structured_json"}}}, 422, "daemon_error"),
    ({"content": 7}, 422, "daemon_error"),
    ({"attachments": [{"type": "path", "path": "/etc/passwd"}]}, 422, "daemon_error"),
    ({"content": "a", "completion_requirements": [{"type": "workspace_file", "path": "../x"}]}, 400, "bad_request"),
    ({"content": "a", "completion_requirements": [{"type": "workspace_file", "path": "/x"}]}, 400, "bad_request"),
    ({"content": "a", "completion_requirements": [{"type": "workspace_file", "path": "a\0"}]}, 400, "bad_request"),
    ({"content": "a", "completion_requirements": [{"type": "other"}]}, 422, "daemon_error"),
    ({"content": "a", "reply_plugin": "mail"}, 400, "bad_request"),
    ({"content": "a", "reply_targets": [{"type": "slack", "connector": "c"}]}, 422, "daemon_error"),
]


@pytest.mark.parametrize("path", ["runs", "input"])
@pytest.mark.parametrize(("body", "status", "code"), REFUSED)
async def test_a_refused_submission_leaves_no_run(
    house: House, path: str, body: dict[str, Any], status: int, code: str
) -> None:
    await house.session()
    response = await house.post(f"/v1/sessions/s/{path}", body)

    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert await house.run_count() == 0
    assert (await house.get("/v1/sessions/s")).json()["snapshot"]["journal_len"] == 0


async def test_a_route_that_is_not_ready_refuses_and_names_an_action(tmp_path: Path) -> None:
    routes = '[routes.paid]\ndriver = "openai"\ndefault_model = "gpt-5.4"\napi_key_env = "A_KEY_NOBODY_SET"\n'
    async with opened(tmp_path, routes=routes) as house:
        await house.session()
        refused = await house.post("/v1/sessions/s/runs", {"content": "hi"})

        assert (refused.status_code, refused.json()["domain"]) == (409, "routes")
        assert refused.json()["code"] == "route_not_ready"
        assert "'paid'" in refused.json()["detail"]
        assert "Action:" in refused.json()["detail"]
        assert await house.run_count() == 0


async def test_a_model_the_route_refuses_makes_no_run(house: House) -> None:
    await house.session()
    refused = await house.post(
        "/v1/sessions/s/runs", {"content": "hi", "provider": "two", "generation": {"model": " "}}
    )

    assert (refused.status_code, refused.json()["code"]) == (400, "model_not_supported")
    assert await house.run_count() == 0


async def test_the_runs_own_model_wins(house: House) -> None:
    await house.session()
    run = await house.submit("hi", generation={"model": "another"})

    assert (run["request"]["provider"], run["request"]["model"]) == ("one", "another")


async def test_route_id_is_another_word_for_provider(house: House) -> None:
    await house.session()

    assert (await house.submit("hi", route_id="two"))["request"]["provider"] == "two"


async def test_unknown_fields_are_ignored(house: House) -> None:
    await house.session()

    assert (await house.submit("hi", colour="blue"))["status"] in ("queued", "running")


async def test_a_binding_key_belongs_to_one_session_forever(house: House) -> None:
    await house.session("a")
    await house.session("b")
    await house.submit("hi", "a", binding_keys=["thread-1"])
    await house.submit("hi", "a", binding_keys=["thread-1"])
    taken = await house.post("/v1/sessions/b/runs", {"content": "hi", "binding_keys": ["thread-1"]})

    assert (taken.status_code, taken.json()["code"]) == (409, "binding_key_conflict")
    assert await house.run_count() == 2
    await house.settled("a")
    assert (await house.get("/v1/sessions/b")).json()["snapshot"]["journal_len"] == 0


async def test_long_input_is_shown_shortened(house: House) -> None:
    await house.session()
    run = await house.submit("x" * 5000)

    assert len(run["request"]["text_preview"]) == 200


async def test_without_routes_a_submission_says_what_to_do(tmp_path: Path) -> None:
    async with opened(tmp_path, routes="[broken", allow_empty_routes=True) as house:
        await house.session()
        refused = await house.post("/v1/sessions/s/runs", {"content": "hi"})

        assert (refused.status_code, refused.json()["code"]) == (409, "route_not_ready")
        assert (await house.get("/v1/status")).json()["provider_readiness"]["active_route_ready"] is False
