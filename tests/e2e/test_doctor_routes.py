"""doctor routes on a running daemon: drift, keys, what refers to routes, and canaries."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.daemon_process import Daemon, wait_for
from tests.e2e.test_doctor import doctor
from tests.fakes.model_server import Answer, ModelServer, Refusal

pytestmark = pytest.mark.e2e
OK = "KHEISH_ROUTE_CANARY_OK"


def routes(*blocks: str) -> str:
    return 'default_route = "good"\n' + "\n".join(blocks)


def route(name: str, url: str, more: str = "") -> str:
    return f'[routes.{name}]\ndriver = "openai_compatible"\ndefault_model = "m"\nbase_url = "{url}"\n{more}\n'


def codes(view: Any) -> dict[str, Any]:
    return {found["code"]: found for found in view["diagnostics"]}


def test_routes_that_are_as_loaded_pass_and_a_comment_in_the_file_is_a_warning(
    daemon_for: Callable[..., Daemon],
) -> None:
    """Case 11 of the daemon's contract."""
    daemon = daemon_for(routes(route("good", "http://127.0.0.1:9")))
    status, view, _ = doctor(daemon, "routes")
    assert (status, view["ok"], view["source"], view["default_route"]) == (0, True, "runtime", "good")
    assert view["diagnostics"] == []
    assert view["routes"][0]["auth_kind"] == "none"

    with daemon.routes_file.open("a") as file:
        file.write("# a comment\n")
    status, view, _ = doctor(daemon, "routes")
    assert (status, [*codes(view)]) == (0, ["route_file_drift"])

    before = daemon.log().count("routes_reloaded")
    daemon.signal(signal.SIGHUP)
    wait_for(lambda: daemon.log().count("routes_reloaded") > before, "not reloaded", daemon.log)
    assert doctor(daemon, "routes")[1]["diagnostics"] == []
    daemon.routes_file.unlink()
    assert [*codes(doctor(daemon, "routes")[1])] == ["route_file_unreadable"]


def test_a_key_that_is_missing_is_an_error_when_keys_are_checked(daemon_for: Callable[..., Daemon]) -> None:
    bad = route("bad", "http://127.0.0.1:9", 'api_key_env = "NOT_SET_ANYWHERE"')
    daemon = daemon_for(routes(route("good", "http://127.0.0.1:9"), bad))
    assert doctor(daemon, "routes")[0] == 0

    status, view, errors = doctor(daemon, "routes", "--check-auth")
    assert (status, view["auth_checked"], view["ok"]) == (1, True, False)
    assert codes(view)["api_key_env_unset"]["route_id"] == "bad"
    assert "NOT_SET_ANYWHERE" in view["errors"][0]
    assert "look at errors" in errors
    assert doctor(daemon, "routes", "--check-auth", "--route", "good")[0] == 0
    assert codes(doctor(daemon, "routes", "--route", "none")[1])["unknown_route"]["severity"] == "error"
    status, view, _ = doctor(daemon, "routes", "--routes-file", str(daemon.routes_file), "--check-auth")
    assert (status, codes(view)["api_key_env_unset"]["severity"]) == (1, "error")


def test_what_refers_to_a_route_that_is_gone_is_found(daemon_for: Callable[..., Daemon]) -> None:
    with ModelServer(Answer(text="x")) as server:
        daemon = daemon_for(routes(route("good", server.url)))
        body = {"driver": "openai_compatible", "default_model": "m", "base_url": server.url}
        daemon.call("POST", "/v1/runtime/routes", {"route_id": "extra", "route": body})
        daemon.session()
        daemon.call("PUT", "/v1/sessions/demo/route-policy", {"route_policy": {"provider": "extra"}})
        daemon.call("DELETE", "/v1/runtime/routes/extra")

        assert doctor(daemon, "routes")[1]["diagnostics"] == []
        status, view, _ = doctor(daemon, "routes", "--check-references")

    assert (status, view["reference_checked"]) == (0, True)
    assert codes(view)["stale_session_route_policy"]["route_id"] == "extra"


def test_what_only_a_daemon_can_check_is_refused_for_a_file(daemon_for: Callable[..., Daemon]) -> None:
    """Case 14 of the daemon's contract."""
    daemon = daemon_for(routes(route("good", "http://127.0.0.1:9")))
    for word in ("--check-references", "--canary"):
        status, view, _ = doctor(daemon, "routes", "--routes-file", str(daemon.routes_file), word)
        assert (status, [*codes(view)]) == (1, ["route_reference_check_requires_runtime"])


def test_a_canary_calls_each_route_once_and_tells_which_one_does_not_answer(daemon_for: Callable[..., Daemon]) -> None:
    refusal = Refusal(status=401, body={"error": {"message": "hunter2 is no key"}})
    with ModelServer(Answer(text=OK)) as good, ModelServer(refusal) as bad, ModelServer(Answer(text="what?")) as odd:
        daemon = daemon_for(routes(route("good", good.url), route("bad", bad.url), route("odd", odd.url)))
        status, view, _ = doctor(daemon, "routes", "--canary")
        one = doctor(daemon, "routes", "--canary", "--route", "good")

    rows = {row["route_id"]: row for row in view["canaries"]}
    assert status == 1
    assert {name: row["status"] for name, row in rows.items()} == {"good": "passed", "bad": "failed", "odd": "failed"}
    assert "hunter2" not in str(view)
    assert rows["good"]["session_id"].startswith("doctor-canary-")
    assert rows["good"]["run_id"].startswith("run-")
    assert (one[0], [row["route_id"] for row in one[1]["canaries"]]) == (0, ["good"])
    assert (len(good.requests), len(bad.requests), len(odd.requests)) == (2, 1, 1)


def test_a_canary_that_does_not_end_is_a_timeout(daemon_for: Callable[..., Daemon]) -> None:
    held = threading.Event()

    def respond(request: object) -> Answer:
        held.wait(30)
        return Answer(text=OK)

    with ModelServer(respond) as server:
        daemon = daemon_for(routes(route("good", server.url)))
        status, view, _ = doctor(daemon, "routes", "--canary", "--canary-timeout-ms", "1")
        held.set()

    assert (status, view["canaries"][0]["status"]) == (1, "timeout")
