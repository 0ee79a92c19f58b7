"""The credential broker of a whole daemon: what a run borrows, and what revoking stops."""

from __future__ import annotations

import asyncio
import base64
import threading
from pathlib import Path
from typing import Any

import pytest

from kheish.secrets import offline
from tests.engine.world import FakeClock
from tests.fakes.model_server import Answer, ModelServer, Refusal, Request, Response
from tests.http.house import DEADLINE_S, House, opened

pytestmark = pytest.mark.anyio

ENV = {"KHEISH_AUTH_STORE_MASTER_KEY": base64.b64encode(bytes(range(32))).decode()}
ROUTES = """
default_route = "main"

[routes.main]
driver = "openai_compatible"
default_model = "m"
base_url = "{url}"
auth_ref = "local.key"

[routes.inline]
driver = "openai_compatible"
default_model = "m"
base_url = "{url}"
api_key = "inline-hunter2"
"""


def secret(value: str = "hunter2") -> dict[str, Any]:
    return {"slot_id": "local.key", "provider": "generic", "mode": "opaque_secret", "state": {"value": value}}


async def ran(house: House, session: str = "s", **fields: Any) -> Any:
    run = await house.submit("go", session, **fields)
    await house.settled(session)
    return await house.run(run["run_id"])


def keyed(root: Path) -> None:
    """A route's secret must be there when the daemon starts."""
    offline.set_slot(root / "state", secret(), ENV)


async def sessions(house: House, *names: str) -> None:
    for name in names:
        await house.session(name)


async def test_a_run_borrows_a_lease_that_names_its_audience_and_ends_after_a_minute(tmp_path: Path) -> None:
    """Case 14."""
    clock = FakeClock(1_800_000_000_000)
    keyed(tmp_path)
    with ModelServer(Answer(text="ok")) as server:
        async with opened(tmp_path, environ=ENV, routes=ROUTES.format(url=server.url), clock=clock) as house:
            await sessions(house, "s")
            before = await house.get("/v1/runtime/auth/subjects/session:s")
            assert (await ran(house))["status"] == "completed"
            subject = await house.get("/v1/runtime/auth/subjects/session:s")
            [lease_id] = subject.json()["active_route_lease_ids"]
            lease = await house.get(f"/v1/runtime/auth/leases/{lease_id}")
            clock.value += 60_000
            later = await house.get("/v1/runtime/auth/subjects/session:s")
            gone = await house.get(f"/v1/runtime/auth/leases/{lease_id}")

    assert before.json() == {"subject_id": "session:s", "current_epoch": 0, "revoked": False}
    shown = lease.json()
    assert shown["lease"]["audience"] == {"type": "route", "route_id": "main", "slot_id": "local.key"}
    assert shown["lease"]["expires_at_ms"] - shown["lease"]["issued_at_ms"] == 60_000
    assert (shown["active"], shown["revoked"]) == (True, False)
    assert "token_digest" not in lease.text
    assert later.json() == before.json()
    assert (gone.status_code, gone.json()["code"]) == (404, "lease_not_found")


async def test_a_route_with_a_key_of_its_own_takes_leases_too(tmp_path: Path) -> None:
    keyed(tmp_path)
    with ModelServer(Answer(text="ok")) as server:
        async with opened(tmp_path, environ=ENV, routes=ROUTES.format(url=server.url)) as house:
            await sessions(house, "s")
            await ran(house, provider="inline")
            subject = await house.get("/v1/runtime/auth/subjects/session:s")
            [lease_id] = subject.json()["active_route_lease_ids"]
            lease = await house.get(f"/v1/runtime/auth/leases/{lease_id}")
            await house.post("/v1/runtime/auth/slots/inline-route:inline/revoke", {})
            refused = await ran(house, provider="inline")

    assert lease.json()["lease"]["audience"]["slot_id"] == "inline-route:inline"
    assert refused["status"] == "failed"
    assert "auth_ref" in refused["error"]
    assert len(server.requests) == 1


async def test_a_revoked_slot_stops_every_run_through_a_restart_until_it_is_written_again(tmp_path: Path) -> None:
    """Case 15."""
    keyed(tmp_path)
    with ModelServer(Answer(text="ok")) as server:
        routes = ROUTES.format(url=server.url)
        async with opened(tmp_path, environ=ENV, routes=routes) as house:
            await sessions(house, "s", "t")
            await ran(house, "s")
            await ran(house, "t")
            revoked = await house.post("/v1/runtime/auth/slots/local.key/revoke", {})
            refused = await ran(house)
            unknown = await house.post("/v1/runtime/auth/slots/nothing/revoke", {})
        async with opened(tmp_path, environ=ENV, routes=routes) as house:
            still = await ran(house)
            assert len(server.requests) == 2
            await house.post("/v1/runtime/secrets", secret("another"))
            restored = await ran(house)
        async with opened(tmp_path, environ=ENV, routes=routes) as house:
            assert (await ran(house))["status"] == "completed"

    assert revoked.json() == {"slot_id": "local.key", "revoked_leases": 2}
    assert (unknown.status_code, unknown.json()["code"]) == (404, "slot_not_found")
    assert refused["status"] == still["status"] == "failed"
    assert "'local.key' was revoked" in refused["error"]
    assert restored["status"] == "completed"


async def test_a_revoked_session_fails_and_others_work_and_it_stays_so_after_a_restart(tmp_path: Path) -> None:
    """Case 16."""
    keyed(tmp_path)
    with ModelServer(Answer(text="ok")) as server:
        routes = ROUTES.format(url=server.url)
        async with opened(tmp_path, environ=ENV, routes=routes) as house:
            await sessions(house, "s", "t")
            await ran(house)
            revoked = await house.post("/v1/runtime/auth/subjects/session:s/revoke", {})
            unknown = await house.post("/v1/runtime/auth/subjects/session:nobody/revoke", {})
            nobody = await house.get("/v1/runtime/auth/subjects/connector:x")
            refused, other = await ran(house), await ran(house, "t")
        async with opened(tmp_path, environ=ENV, routes=routes) as house:
            still = await ran(house)
            shown = await house.get("/v1/runtime/auth/subjects/session:s")
            await house.post("/v1/runtime/secrets", secret("another"))
            rotated = await ran(house)

    assert revoked.json() == shown.json() == {"subject_id": "session:s", "current_epoch": 1, "revoked": True}
    assert unknown.status_code == nobody.status_code == 404
    assert [view["status"] for view in (refused, still, rotated, other)] == ["failed", "failed", "failed", "completed"]
    assert "session:s was revoked" in refused["error"]
    assert len(server.requests) == 2


async def test_a_revoked_lease_is_replaced_by_the_next_call_and_stays_revoked(tmp_path: Path) -> None:
    keyed(tmp_path)
    with ModelServer(Answer(text="ok")) as server:
        routes = ROUTES.format(url=server.url)
        async with opened(tmp_path, environ=ENV, routes=routes) as house:
            await sessions(house, "s")
            await ran(house)
            [first] = (await house.get("/v1/runtime/auth/subjects/session:s")).json()["active_route_lease_ids"]
            ended = await house.post(f"/v1/runtime/auth/leases/{first}/revoke", {})
            again = await ran(house)
            [second] = (await house.get("/v1/runtime/auth/subjects/session:s")).json()["active_route_lease_ids"]
        async with opened(tmp_path, environ=ENV, routes=routes) as house:
            kept = await house.get(f"/v1/runtime/auth/leases/{first}")
            subject = await house.get("/v1/runtime/auth/subjects/session:s")

    assert (ended.json()["revoked"], ended.json()["active"]) == (True, False)
    assert again["status"] == "completed"
    assert second != first
    assert kept.json() == ended.json()
    assert subject.json()["active_route_lease_ids"] == [second]


async def test_a_scope_blocks_a_route_by_name_until_it_is_changed(tmp_path: Path) -> None:
    """Case 17."""
    keyed(tmp_path)
    with ModelServer(Answer(text="ok")) as server:
        async with opened(tmp_path, environ=ENV, routes=ROUTES.format(url=server.url)) as house:
            body = {"session_id": "s", "credential_scope": {"route_allow": [" inline "]}}
            created = await house.post("/v1/sessions", body)
            refused, allowed = await ran(house), await ran(house, provider="inline")
            wrong = await house.post("/v1/sessions/s/credential-scope", {"credential_scope": {"routes": ["main"]}})
            narrowed = await house.client.put(
                "/v1/sessions/s/credential-scope", json={"credential_scope": {"route_deny": ["inline"]}}
            )
            denied = await ran(house, provider="inline")
            lifted = await house.client.delete("/v1/sessions/s/credential-scope")
            free = await ran(house)

    assert created.status_code == 201
    assert refused["status"] == denied["status"] == "failed"
    assert "blocks the route 'main'" in refused["error"]
    assert "blocks the route 'inline'" in denied["error"]
    assert narrowed.json()["credential_scope"] == {"route_deny": ["inline"]}
    assert "credential_scope" not in lifted.json()
    assert (wrong.status_code, wrong.json()["code"]) == (400, "bad_request")
    assert allowed["status"] == free["status"] == "completed"
    assert len(server.requests) == 2


async def test_a_slot_revoked_between_two_attempts_lets_no_second_request_out(tmp_path: Path) -> None:
    asked, revoked = threading.Event(), threading.Event()

    def respond(request: Request) -> Response:
        asked.set()
        assert revoked.wait(DEADLINE_S)
        return Refusal(status=503, body={"error": {"message": "busy"}})

    keyed(tmp_path)
    with ModelServer(respond) as server:
        async with opened(tmp_path, environ=ENV, routes=ROUTES.format(url=server.url)) as house:
            await sessions(house, "s")
            run = await house.submit("go")
            assert await asyncio.to_thread(asked.wait, DEADLINE_S)
            await house.post("/v1/runtime/auth/slots/local.key/revoke", {})
            revoked.set()
            await house.settled()
            ended = await house.run(run["run_id"])

    assert ended["status"] == "failed"
    assert "was revoked" in ended["error"]
    assert len(server.requests) == 1


async def test_what_was_sent_is_recorded_with_its_digest_even_when_the_run_is_stopped(tmp_path: Path) -> None:
    asked, stopped = threading.Event(), threading.Event()

    def respond(request: Request) -> Response:
        if request.number == 0:
            return Answer(text="ok")
        asked.set()
        assert stopped.wait(DEADLINE_S)
        return Answer(text="late")

    keyed(tmp_path)
    with ModelServer(respond) as server:
        async with opened(tmp_path, environ=ENV, routes=ROUTES.format(url=server.url)) as house:
            await sessions(house, "s")
            await ran(house)
            run = await house.submit("go")
            assert await asyncio.to_thread(asked.wait, DEADLINE_S)
            await house.post(f"/v1/runs/{run['run_id']}/cancel", {})
            stopped.set()
            await house.settled()
            journal = await house.daemon.engine._journal.load("s")

    uses = [entry.access for entry in (r.entry for r in journal) if getattr(entry, "access", None) is not None]
    assert len(uses) == len(server.requests) == 2
    assert uses[0].lease_id == uses[1].lease_id
    assert uses[0].request_digest != uses[1].request_digest
    assert all(len(bytes.fromhex(use.request_digest)) == 32 for use in uses)
