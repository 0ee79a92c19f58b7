"""The control plane's boundary, over HTTP."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from kheish.auth.control_plane import AccessSettings, AuthMode, BoundaryRefused, ControlPlane
from kheish.auth.roles import Access, required_access
from kheish.core.clock import SystemClock
from kheish.daemon.openapi import document
from tests.engine.world import FakeClock
from tests.http.house import House, opened

pytestmark = pytest.mark.anyio

ADMIN, READER = "admin-token-hunter2", "reader-token-hunter2"
ADMIN_READS = [
    "/v1/runtime/secrets",
    "/v1/runtime/hooks",
    "/v1/runtime/revisions",
    "/v1/assets/x/raw",
    "/v1/runs/x/debug",
    "/v1/unknown",
]


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def audit_lines(root: Path) -> list[dict[str, Any]]:
    path = root / "state" / "control-plane-auth" / "audit.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@asynccontextmanager
async def guarded(root: Path, **options: Any) -> AsyncIterator[House]:
    given = {"http_admin_token": ADMIN, "http_readonly_token": READER, **options}
    async with opened(root, **{name: value for name, value in given.items() if value is not None}) as house:
        yield house


async def code_of(house: House, path: str = "/v1/status", **headers: str) -> str | int:
    response = await house.client.get(path, headers=headers)
    return response.json()["code"] if response.status_code >= 400 else response.status_code


async def test_each_role_opens_what_the_matrix_says(tmp_path: Path) -> None:
    """auth-and-secrets case 8."""
    async with guarded(tmp_path) as house:
        for path in ("/v1/status", "/v1/runs", "/v1/sessions", "/v1/runtime", "/v1/openapi.json"):
            assert await code_of(house, path, **bearer(READER)) == 200
            assert await code_of(house, path, **bearer(ADMIN)) == 200
        for path in ADMIN_READS:
            refused = await house.client.get(path, headers=bearer(READER))
            assert (refused.status_code, refused.json()["code"]) == (403, "insufficient_access"), path
        write = await house.client.post("/v1/sessions", json={}, headers=bearer(READER))
        unknown = await house.client.get("/v1/unknown", headers=bearer(ADMIN))
        created = await house.client.post("/v1/sessions", json={"session_id": "s"}, headers=bearer(ADMIN))

    assert (write.status_code, write.json()["code"], write.json()["domain"]) == (403, "insufficient_access", "auth")
    assert (unknown.status_code, unknown.json()["code"], unknown.json()["domain"]) == (404, "route_not_found", "api")
    assert created.status_code == 201


async def test_every_operation_asks_for_the_role_that_the_matrix_says_before_anything_else(tmp_path: Path) -> None:
    """auth-and-secrets case 8, over the daemon's own description of itself."""
    seen = []
    clock = FakeClock(1_800_000_000_000)
    async with guarded(tmp_path, clock=clock) as house:
        for path, methods in document()["paths"].items():
            if not path.startswith(("/v1/", "/metrics")):
                continue
            target = path.replace("{", "").replace("}", "")
            for method in map(str.upper, methods):
                # There are more operations than failures that one minute allows.
                clock.value += 1_000
                anonymous = await house.client.request(method, target)
                assert (anonymous.status_code, anonymous.json()["code"]) == (401, "missing_token"), (method, path)
                if required_access(method, target) is Access.READ_ONLY:
                    continue
                read_only = await house.client.request(method, target, headers=bearer(READER))
                assert (read_only.status_code, read_only.json()["code"]) == (403, "insufficient_access"), (method, path)
                seen.append((method, path))

    assert {method for method, _ in seen} >= {"POST", "PUT", "DELETE", "GET"}
    assert ("GET", "/v1/runtime/secrets") in seen


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "missing_token"),
        ("Basic x", "malformed_token"),
        ("Bearer ", "malformed_token"),
        ("Bearer", "malformed_token"),
        ("", "malformed_token"),
        ("Bearer wrong", "invalid_token"),
        (f"Bearer {ADMIN} {READER}", "invalid_token"),
        ("Bearer \xfc\xff", "invalid_token"),
    ],
)
async def test_a_call_without_a_good_token_is_challenged(tmp_path: Path, header: str | None, code: str) -> None:
    """auth-and-secrets case 9."""
    async with guarded(tmp_path) as house:
        headers = [] if header is None else [(b"authorization", header.encode("latin-1"))]
        response = await house.client.get("/v1/status", headers=headers)

    assert (response.status_code, response.json()["code"], response.json()["domain"]) == (401, code, "auth")
    assert response.headers["www-authenticate"] == 'Bearer realm="kheish-daemon"'
    assert response.headers["content-type"] == "application/problem+json"


async def test_the_scheme_has_no_case_and_the_token_is_trimmed(tmp_path: Path) -> None:
    async with guarded(tmp_path) as house:
        assert await code_of(house, authorization=f"bEARER   {ADMIN}  ") == 200


async def test_probes_need_no_token(tmp_path: Path) -> None:
    async with guarded(tmp_path) as house:
        assert (await house.client.get("/healthz")).text == "ok\n"
        assert (await house.client.get("/readyz")).text == "ready\n"


async def test_after_sixty_failures_an_address_waits_while_good_tokens_pass(tmp_path: Path) -> None:
    """auth-and-secrets case 10."""
    async with guarded(tmp_path) as house:
        codes = [await code_of(house, **bearer("wrong-hunter2")) for _ in range(62)]
        limited = await house.client.get("/v1/status", headers=bearer("wrong-hunter2"))
        good = await code_of(house, **bearer(ADMIN))
        other = await code_of(house)

    assert codes == ["invalid_token"] * 60 + ["rate_limited"] * 2
    assert (limited.status_code, limited.headers["retry-after"]) == (429, "60")
    assert (good, other) == (200, "missing_token")
    lines = audit_lines(tmp_path)
    assert [line["event"] for line in lines] == ["auth_failure"] * 60 + ["auth_rate_limited", "auth_failure"]
    assert lines[0]["method"] == "GET"
    assert lines[0]["path"] == "/v1/status"
    assert lines[0]["reason"] == "invalid_token"
    assert lines[0]["required_access"] == "read_only"
    assert lines[0]["remote_addr"] == "127.0.0.1"
    path = tmp_path / "state" / "control-plane-auth" / "audit.jsonl"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "hunter2" not in path.read_text()


async def test_a_replaced_token_file_counts_from_the_next_request_on(tmp_path: Path) -> None:
    """auth-and-secrets case 11."""
    admin, reader = tmp_path / "admin", tmp_path / "reader"
    admin.write_text("old\n")
    reader.write_text("read\n")

    def replace(path: Path, token: str) -> None:
        fresh = path.with_suffix(".new")
        fresh.write_text(token)
        fresh.replace(path)

    files = {"http_admin_token_file": str(admin), "http_readonly_token_file": str(reader)}
    async with guarded(tmp_path, http_admin_token=None, http_readonly_token=None, **files) as house:
        assert await code_of(house, **bearer("old")) == 200
        replace(admin, "new\n")
        assert [await code_of(house, **bearer(token)) for token in ("old", "new", "read")] == [
            "invalid_token",
            200,
            200,
        ]
        replace(reader, "new")
        assert [await code_of(house, **bearer(token)) for token in ("new", "read")] == ["invalid_token"] * 2
        replace(reader, "read")
        assert await code_of(house, **bearer("new")) == 200
        replace(admin, " \n")
        assert [await code_of(house, **bearer(token)) for token in ("new", "read")] == ["invalid_token", 200]
        admin.unlink()
        assert [await code_of(house, **bearer(token)) for token in ("new", "read")] == ["invalid_token", 200]


@pytest.mark.parametrize("mode", ["auto", "bearer"])
async def test_tokens_are_asked_for_as_soon_as_there_is_an_admin_token(tmp_path: Path, mode: str) -> None:
    async with guarded(tmp_path, http_readonly_token=None, http_auth_mode=mode) as house:
        assert await code_of(house) == "missing_token"
        control_plane = (await house.client.get("/v1/status", headers=bearer(ADMIN))).json()["control_plane"]

    assert control_plane["auth_enabled"] is True
    assert control_plane["externally_exposed_without_auth"] is False


async def test_mode_none_ignores_tokens_on_this_machine(tmp_path: Path) -> None:
    async with guarded(tmp_path, http_auth_mode="none") as house:
        assert await code_of(house) == 200
        assert await code_of(house, host="evil.example") == "host_not_allowed"


async def test_with_tokens_the_daemon_answers_by_any_name(tmp_path: Path) -> None:
    async with guarded(tmp_path) as house:
        assert await code_of(house, host="kheish.internal", **bearer(ADMIN)) == 200
        assert await code_of(house, host="kheish.internal") == "missing_token"


@pytest.mark.parametrize("origin", ["http://localhost:5173", "https://127.0.0.1", "http://[::1]:80"])
async def test_a_page_of_this_machine_may_call(tmp_path: Path, origin: str) -> None:
    """auth-and-secrets case 13, allowed."""
    async with guarded(tmp_path) as house:
        preflight = await house.client.options("/v1/runs", headers={"origin": origin})
        answered = await house.client.get("/v1/runs", headers={"origin": origin, **bearer(READER)})
        refused = await house.client.get("/v1/runs", headers={"origin": origin})

    assert (preflight.status_code, preflight.content) == (204, b"")
    for response in (preflight, answered, refused):
        assert response.headers["access-control-allow-origin"] == origin
        assert response.headers["access-control-allow-methods"] == "GET,HEAD,POST,PUT,PATCH,DELETE,OPTIONS"
        assert "authorization" in response.headers["access-control-allow-headers"]
        assert response.headers["access-control-max-age"] == "600"
        assert "origin" in response.headers["vary"]
    assert (answered.status_code, refused.status_code) == (200, 401)


@pytest.mark.parametrize(
    "origin",
    ["http://localhost:5173/", "https://example.com", "null", "", "http://localhost.evil.example", "http://localhost:"],
)
async def test_a_page_of_another_origin_may_not(tmp_path: Path, origin: str) -> None:
    """auth-and-secrets case 13, refused."""
    async with guarded(tmp_path) as house:
        asked = await house.client.get("/v1/runs", headers={"origin": origin, **bearer(ADMIN)})
        preflight = await house.client.options("/v1/runs", headers={"origin": origin})

    for response in (asked, preflight):
        problem = response.json()
        assert (response.status_code, problem["domain"], problem["code"]) == (403, "cors", "origin_not_allowed")
        assert "access-control-allow-origin" not in response.headers
    assert [line["event"] for line in audit_lines(tmp_path)] == ["cors_origin_rejected"] * 2


async def test_configured_origins_are_the_only_ones(tmp_path: Path) -> None:
    origins = ["http://localhost:1", "http://localhost:1,http://localhost:2"]
    async with guarded(tmp_path, http_cors_allow_origin=origins) as house:
        allowed = await code_of(house, origin="http://localhost:2", **bearer(ADMIN))
        refused = await code_of(house, origin="http://localhost:3", **bearer(ADMIN))
        status = (await house.client.get("/v1/status", headers=bearer(ADMIN))).json()["control_plane"]

    assert (allowed, refused) == (200, "origin_not_allowed")
    assert (status["cors_policy"], status["cors_allowed_origin_count"]) == ("exact", 2)


async def test_without_an_origin_there_are_no_cors_headers(tmp_path: Path) -> None:
    async with guarded(tmp_path) as house:
        response: httpx2.Response = await house.client.get("/v1/runs", headers=bearer(READER))

    assert not [name for name in response.headers if name.startswith("access-control")]


async def test_control_characters_never_reach_the_audit_file(tmp_path: Path) -> None:
    async with guarded(tmp_path) as house:
        headers = [(b"origin", b"http://evil\x1b[2J\x07" + b"x" * 2000)]
        response = await house.client.get("/v1/runs", headers=headers)

    assert response.status_code == 403
    [line] = audit_lines(tmp_path)
    assert line["origin"].startswith("http://evil[2J")
    assert len(line["origin"]) == 512


async def test_an_audit_that_cannot_be_written_changes_no_answer(tmp_path: Path) -> None:
    async with guarded(tmp_path) as house:
        (tmp_path / "state" / "control-plane-auth").write_text("a file where a folder should be")
        assert await code_of(house) == "missing_token"
        assert await code_of(house, **bearer(ADMIN)) == 200


def test_the_server_itself_refuses_an_open_address(tmp_path: Path) -> None:
    settings = AccessSettings(mode=AuthMode.AUTO)
    control_plane = ControlPlane(
        settings=settings, bind_host="127.0.0.1", audit=tmp_path / os.devnull.strip("/"), clock=SystemClock()
    )
    control_plane.require_boundary("::1")
    with pytest.raises(BoundaryRefused):
        control_plane.require_boundary("0.0.0.0")


async def test_the_status_tells_which_tokens_work(tmp_path: Path) -> None:
    admin, reader = tmp_path / "admin", tmp_path / "reader"
    admin.write_text(ADMIN)
    reader.write_text(READER)
    files = {"http_admin_token_file": str(admin), "http_readonly_token_file": str(reader)}
    async with guarded(tmp_path, http_admin_token=None, http_readonly_token=None, **files) as house:

        async def status(token: str) -> tuple[dict[str, Any], list[str]]:
            found = (await house.client.get("/v1/status", headers=bearer(token))).json()
            codes = [warning["code"] for warning in found["health"]["warnings"]]
            return found["control_plane"], [code for code in codes if code.startswith("auth_")]

        good, quiet = await status(ADMIN)
        admin.write_text("")
        broken, warned = await status(READER)

    assert (good["auth_token_file_count"], good["auth_token_file_error_count"], quiet) == (2, 0, [])
    assert good["auth_token_files"] == [{"path": str(path), "token_loaded": True} for path in (admin, reader)]
    assert broken["auth_token_file_error_count"] == 1
    assert warned == ["auth_token_file_unreadable", "auth_no_admin_token"]
    assert "hunter2" not in str(good) + str(broken)
