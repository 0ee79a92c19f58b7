"""doctor: what is wrong, and what to do, from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.pseudo_terminal import OnTerminal
from tests.e2e.daemon_process import Daemon

pytestmark = pytest.mark.e2e
ROUTES = """
default_route = "main"
[routes.main]
driver = "openai_compatible"
default_model = "m"
base_url = "http://127.0.0.1:9"
[routes.other]
driver = "openai"
default_model = "gpt-5.4"
api_key_env = "NOT_SET_ANYWHERE"
"""


def started(daemon_for: Callable[..., Daemon], **options: Any) -> Daemon:
    """With something in the event stream: a silent one speaks every ten seconds only."""
    daemon = daemon_for(ROUTES, **options)
    token = options.get("env", {}).get("KHEISH_DAEMON_ADMIN_TOKEN", "none")
    daemon.call("POST", "/v1/sessions", {"session_id": "demo"}, headers={"authorization": f"Bearer {token}"})
    return daemon


def doctor(daemon: Daemon, *words: str) -> tuple[int, Any, str]:
    command = [sys.executable, "-m", "kheish", "--base-url", daemon.url or "http://127.0.0.1:9", "doctor", *words]
    done = subprocess.run(command, env=daemon.env, capture_output=True, text=True, timeout=60)
    return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr


def row(view: Any, name: str, severity: str | None = None) -> Any:
    return next(one for one in view["checks"] if one["name"] == name and severity in (None, one["severity"]))


def test_a_healthy_daemon_passes_with_warnings_that_say_what_to_do(daemon_for: Callable[..., Daemon]) -> None:
    daemon = started(daemon_for)
    status, view, errors = doctor(daemon)

    assert (status, errors, view["ok"], view["errors"]) == (0, "", True, [])
    for name in ("daemon_status", "readyz", "events_sse", "routes", "storage", "state_root_lock", "events_status"):
        assert row(view, name)["ok"] is True
    assert row(view, "control_plane_auth")["ok"] is True
    unready = row(view, "provider_readiness", "warning")
    assert "NOT_SET_ANYWHERE" in unready["action"]
    assert (view["session_count"], view["readyz_reachable"], view["events_stream_reachable"]) == (1, True, True)


def test_without_a_daemon_every_probe_says_so(tmp_path: Path) -> None:
    status, view, errors = doctor(Daemon(tmp_path, routes=""))

    assert (status, view["ok"], "status" in view) == (1, False, False)
    assert "cannot be reached" in view["status_error"]
    assert row(view, "daemon_status")["code"] == "status_unreachable"
    assert row(view, "readyz")["code"] == "readyz_unreachable"
    assert row(view, "events_sse")["code"] == "events_unreachable"
    assert "kheish-daemon serve" in row(view, "readyz")["action"]
    assert "not well" in errors


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("KHEISH_DAEMON_TOKEN", "hunter2\u00fc"),
        ("KHEISH_DAEMON_TOKEN", "hunter2\nx"),
        ("KHEISH_DAEMON_URL", "http://user:hunter2@127.0.0.1:9"),
        ("KHEISH_DAEMON_URL", "http://127.0.0.1:hunter2"),
        ("KHEISH_DAEMON_URL", "hunter2"),
    ],
)
def test_a_token_or_address_that_cannot_be_used_is_one_line(variable: str, value: str) -> None:
    environment = {**os.environ, "PYTHONPATH": "src", variable: value}
    command = [sys.executable, "-m", "kheish", "doctor"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert done.stderr.startswith("error: the ")
    assert "hunter2" not in done.stderr


def test_on_a_terminal_each_check_is_a_line_and_json_is_asked_for(daemon_for: Callable[..., Daemon]) -> None:
    daemon = started(daemon_for)
    with OnTerminal("--base-url", daemon.url, "doctor") as shell:
        shell.expect("0 errors, ")
        assert shell.end() == 0
    lines = shell.output.splitlines()
    words = "ok       the daemon's status answers"

    assert words in lines
    at = next(number for number, line in enumerate(lines) if "NOT_SET_ANYWHERE" in line)
    assert lines[at].startswith("warning  route other:")
    assert lines[at + 1].startswith("         > ")
    with OnTerminal("--base-url", daemon.url, "doctor", "--json") as shell:
        shell.expect('"errors": []')
        assert shell.end() == 0
    assert words not in shell.output


def test_a_missing_token_is_named(daemon_for: Callable[..., Daemon]) -> None:
    daemon = started(daemon_for, env={"KHEISH_DAEMON_ADMIN_TOKEN": "hunter2-token"})
    status, view, _ = doctor(daemon)
    assert (status, "missing_token" in view["status_error"]) == (1, True)
    status, view, _ = doctor(daemon, "--token", "hunter2-token")
    assert (status, row(view, "control_plane_auth")["code"]) == (0, "auth_on")
    assert "hunter2" not in json.dumps(view)


@pytest.mark.parametrize(("origin", "allowed"), [("http://localhost:5173", True), ("https://evil.example", False)])
def test_a_page_can_be_asked_about(daemon_for: Callable[..., Daemon], origin: str, allowed: bool) -> None:
    status, view, _ = doctor(started(daemon_for), "--cors-origin", origin)

    assert status == (0 if allowed else 1)
    assert row(view, "control_plane_cors")["ok"] is allowed


def test_a_workspace_that_is_gone_is_a_storage_error(daemon_for: Callable[..., Daemon]) -> None:
    daemon = started(daemon_for)
    daemon.workspace.rename(daemon.workspace.with_name("elsewhere"))
    status, view, _ = doctor(daemon)

    assert status == 1
    assert row(view, "storage", "error")["action"]


def test_a_routes_file_is_checked_without_a_daemon(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path, routes=ROUTES)
    status, view, _ = doctor(daemon, "routes", "--routes-file", str(daemon.routes_file))
    assert (status, view["ok"], view["default_route"], view["route_count"]) == (0, True, "main", 2)
    assert [(one["code"], one["route_id"]) for one in view["diagnostics"]] == [("api_key_env_unset", "other")]

    daemon.routes_file.write_text('[routes.a]\ndriver = "openai"\napi_key = "sk-SECRET\n')
    status, view, errors = doctor(daemon, "routes", "--routes-file", str(daemon.routes_file))
    assert (status, view["ok"], view["diagnostics"][0]["code"]) == (1, False, "route_file_invalid")
    assert "line 3" in view["errors"][0]
    assert "sk-SECRET" not in json.dumps(view) + errors

    daemon.routes_file.write_text(ROUTES.replace('default_route = "main"\n', ""))
    status, view, _ = doctor(daemon, "routes", "--routes-file", str(daemon.routes_file), "--default-route", "main")
    assert (status, "default_route" in view["errors"][0]) == (1, True)

    inline = '[routes.a]\ndriver = "openai"\ndefault_model = "gpt-5.4"\napi_key = "sk-SECRET"\n'
    daemon.routes_file.write_text(inline)
    status, view, _ = doctor(daemon, "routes", "--routes-file", str(daemon.routes_file))
    assert (status, view["diagnostics"][0]["code"], view["routes"][0]["auth_kind"]) == (0, "inline_api_key", "inline")
    assert "sk-SECRET" not in json.dumps(view)
