"""The edge: who may call, what a body may be, what a path may hold (decisions 21 to 23)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import pytest

from kheish.daemon.app import routes
from kheish.http.arguments import Arguments
from kheish.http.bodies import Bodies
from kheish.http.failures import Failures
from kheish.runs.service import RunLedger
from tests.http.house import House, opened

pytestmark = pytest.mark.anyio

JSON = {"content-type": "application/json"}
STRANGE_IDS = ["x/events", "a b", "ü/ß", "%", "%2F", "..%2f..", "a?b#c", "../../etc/passwd", "\u0000", "🦊", "run-1"]


@pytest.mark.parametrize("session_id", STRANGE_IDS)
async def test_any_id_works_in_a_path_when_it_is_encoded(house: House, session_id: str) -> None:
    await house.session(session_id)
    run = await house.submit("hi", session_id)
    await house.settled(session_id)
    path = quote(session_id, safe="")

    assert (await house.get(f"/v1/sessions/{path}")).json()["session_id"] == session_id
    assert (await house.get(f"/v1/sessions/{path}/events")).json()["session"]["session_id"] == session_id
    assert (await house.run(run["run_id"]))["session_id"] == session_id


async def test_an_encoded_slash_is_part_of_the_id_and_a_real_one_is_not(house: House) -> None:
    await house.session("x")
    encoded = await house.get("/v1/sessions/x%2Fevents")
    plain = await house.get("/v1/sessions/x/events")

    assert (encoded.status_code, encoded.json()["code"]) == (404, "session_not_found")
    assert "'x/events'" in encoded.json()["detail"]
    assert plain.status_code == 200


async def test_a_path_that_is_not_utf_8_is_a_bad_request(house: House) -> None:
    response = await house.get("/v1/sessions/%FF%FE")

    assert (response.status_code, response.json()["code"]) == (400, "bad_request")


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/nope", "/v1/sessions/", "/v1/sessions//runs", "/v1/runs/a/b/c", "/docs"]
)
async def test_an_unknown_path_is_a_problem(house: House, path: str) -> None:
    response = await house.get(path)

    assert response.status_code == 404
    assert (response.json()["domain"], response.json()["code"]) == ("api", "route_not_found")
    assert response.headers["content-type"] == "application/problem+json"


async def test_a_wrong_method_names_the_right_ones(house: House) -> None:
    response = await house.client.put("/v1/sessions", json={})
    deleted = await house.client.delete("/v1/sessions/s/approvals")

    assert (response.status_code, response.json()["code"]) == (405, "method_not_allowed")
    assert response.headers["allow"] == "GET, POST"
    assert deleted.headers["allow"] == "GET, POST"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "bad_request"),
        (b'{"a": NaN}', 400, "bad_request"),
        (b'{"a": "\xff"}', 400, "bad_request"),
        (b'{"a": "\\ud800"}', 400, "bad_request"),
        (b"[" * 5000, 400, "bad_request"),
        (b'{"session_id": "s", "x": ' + b"[" * 300 + b"]" * 300 + b"}", 400, "bad_request"),
        (b"null", 422, "daemon_error"),
        (b"[]", 422, "daemon_error"),
        (b"3", 422, "daemon_error"),
        (b"", 422, "daemon_error"),
        (b'{"session_id": []}', 422, "daemon_error"),
    ],
)
async def test_a_body_that_is_not_usable_is_a_problem(house: House, body: bytes, status: int, code: str) -> None:
    response = await house.client.post("/v1/sessions", content=body, headers=JSON)

    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert (await house.get("/v1/sessions")).json() == []


async def test_a_field_error_names_the_field_and_not_its_content(house: House) -> None:
    response = await house.client.post("/v1/sessions", json={"session_id": {"token": "hunter2"}})

    assert "session_id" in response.json()["detail"]
    assert "hunter2" not in response.text


async def test_numbers_no_store_can_hold_are_still_answered(house: House) -> None:
    await house.session()
    run = await house.submit("hi", metadata={"big": 2**70, "deep": [[[[1]]]]})

    assert (await house.run(run["run_id"]))["input_metadata"]["deep"] == [[[[1]]]]


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
async def test_a_body_of_another_type_is_refused(house: House, content_type: str) -> None:
    headers = {"content-type": content_type} if content_type else {}
    response = await house.client.post("/v1/sessions", content=b"{}", headers=headers)

    assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")


async def test_a_charset_beside_the_type_is_fine(house: House) -> None:
    headers = {"content-type": "application/json; charset=utf-8"}

    assert (await house.client.post("/v1/sessions", content=b"{}", headers=headers)).status_code == 201


async def test_a_browser_must_say_json_even_without_a_body(house: House) -> None:
    await house.session()
    origin = {"origin": "http://localhost:5173"}
    bare = await house.client.post("/v1/sessions/s/interrupt", headers=origin)
    typed = await house.client.post("/v1/sessions/s/interrupt", headers={**origin, **JSON})

    assert (bare.status_code, typed.status_code) == (415, 200)


async def test_a_body_over_the_limit_is_refused_declared_or_not(tmp_path: Path) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 100

    async with opened(tmp_path, http_max_body_bytes=1000) as house:
        declared = await house.client.post("/v1/sessions", content=b" " * 1001, headers=JSON)
        chunked = await house.client.post("/v1/sessions", content=chunks(), headers=JSON)
        small = await house.client.post("/v1/sessions", content=b"{}" + b" " * 998, headers=JSON)

    assert (declared.status_code, declared.json()["code"]) == (413, "payload_too_large")
    assert (chunked.status_code, chunked.json()["code"]) == (413, "payload_too_large")
    assert small.status_code == 201


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:4000", 200),
        ("LOCALHOST:4000", 200),
        ("127.0.0.1:4000", 200),
        ("127.9.9.9", 200),
        ("[::1]:4000", 200),
        ("app.localhost", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("192.168.1.5:4000", 403),
        ("0.0.0.0:4000", 403),
        ("[::1", 403),
        ("", 403),
    ],
)
async def test_only_names_of_this_machine_are_answered(house: House, host: str, status: int) -> None:
    response = await house.client.get("/v1/sessions", headers={"host": host})

    assert response.status_code == status
    if status == 403:
        assert (response.json()["domain"], response.json()["code"]) == ("auth", "host_not_allowed")


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:5173", 201),
        ("http://127.0.0.1", 201),
        ("https://evil.example", 403),
        ("http://localhost.evil.example", 403),
        ("null", 403),
        ("", 403),
    ],
)
async def test_a_page_of_another_origin_is_refused(house: House, origin: str, status: int) -> None:
    response = await house.client.post("/v1/sessions", json={}, headers={"origin": origin})

    assert response.status_code == status
    if status == 403:
        assert response.json()["code"] == "origin_not_allowed"


async def test_a_second_host_header_does_not_hide_behind_the_first(house: House) -> None:
    hosts = [(b"host", b"localhost"), (b"host", b"evil.example")]
    response = await house.client.get("/v1/sessions", headers=hosts)

    assert (response.status_code, response.json()["code"]) == (403, "host_not_allowed")


async def test_probes_answer_by_any_name(house: House) -> None:
    health = await house.client.get("/healthz", headers={"host": "pod-7.cluster"})
    ready = await house.client.get("/readyz", headers={"host": "pod-7.cluster"})

    assert (health.status_code, health.text) == (200, "ok\n")
    assert (ready.status_code, ready.text) == (200, "ready\n")


async def test_a_draining_daemon_is_not_ready_takes_no_work_and_still_answers(house: House) -> None:
    await house.session()
    await house.daemon.drain(0)
    ready = await house.get("/readyz")
    refused = await house.post("/v1/sessions/s/runs", {"content": "hi"})
    status = await house.get("/v1/status")

    assert (ready.status_code, ready.json()["domain"], ready.json()["code"]) == (503, "readiness", "daemon_draining")
    assert (refused.status_code, refused.json()["code"]) == (503, "daemon_draining")
    assert (status.json()["status"], status.json()["ready"]) == ("draining", False)
    assert await house.run_count() == 0


async def test_a_failing_handler_is_answered_and_tells_nothing() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("the password is hunter2")

    transport = httpx2.ASGITransport(app=Failures(broken))
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        response = await client.get("/v1/status")

    assert (response.status_code, response.json()["code"]) == (500, "internal")
    assert response.headers["content-type"] == "application/problem+json"
    assert "hunter2" not in response.text


async def test_a_bug_in_a_service_is_a_problem_document_and_the_next_request_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the password is hunter2")

    async with opened(tmp_path) as house:
        with monkeypatch.context() as patch:
            patch.setattr(RunLedger, "list", broken)
            response = await house.get("/v1/runs")
        after = await house.get("/v1/runs")

    assert (response.status_code, response.json()["code"]) == (500, "internal")
    assert response.headers["content-type"] == "application/problem+json"
    assert "hunter2" not in response.text
    assert after.status_code == 200


async def test_a_page_may_read_that_a_request_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(RunLedger, "list", broken)
    origin = {"origin": "http://localhost:5173"}
    async with opened(tmp_path) as house:
        bug = await house.client.get("/v1/runs", headers=origin)
        problem = await house.client.get("/v1/runs/none", headers=origin)

    assert (bug.status_code, problem.status_code) == (500, 404)
    assert {answer.headers["access-control-allow-origin"] for answer in (bug, problem)} == {origin["origin"]}


async def test_a_name_in_a_path_wins_over_an_id_for_its_own_methods_only(house: House) -> None:
    named = await house.post("/v1/runs/prune", {"older_than_ms": 3_600_000, "dry_run": True})
    an_id = await house.get("/v1/runs/prune")
    neither = await house.client.delete("/v1/runs/prune")

    assert (named.status_code, an_id.status_code, an_id.json()["code"]) == (200, 404, "run_not_found")
    assert (neither.status_code, neither.headers["allow"]) == (405, "GET, POST")


def test_every_parameter_of_every_operation_says_where_it_comes_from() -> None:
    for route in routes():
        arguments = Arguments(route.handler, route.path)
        assert len(arguments.segments) == route.path.count("{")


async def test_half_a_request_is_none() -> None:
    reached: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["path"])

    arriving = iter(({"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}))

    async def receive() -> Any:
        return next(arriving)

    async def send(message: Any) -> None:
        raise AssertionError("nobody is there to be answered")

    scope = {"type": "http", "method": "POST", "path": "/v1/runs/run-1/cancel", "headers": []}
    await Bodies(app)(scope, receive, send)

    assert reached == []
