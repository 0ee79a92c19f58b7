"""The process: lock, signals, start-up refusals."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from tests.e2e.daemon_process import DEADLINE_S, Daemon, wait_for, wait_for_text
from tests.fakes.model_server import Answer, Call, ModelServer, Request, Response, Stream

pytestmark = pytest.mark.e2e

Served = Callable[..., tuple[Daemon, ModelServer]]
SCRIPTED = '[routes.main]\ndriver = "scripted"\ndefault_model = "m"\nscript = "script.toml"\n'


def refused(daemon: Daemon, *more: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Start another daemon with the same command and expect it to end by itself."""
    return subprocess.run(
        [*daemon.command, *more], env={**daemon.env, **env}, capture_output=True, text=True, timeout=DEADLINE_S
    )


def test_a_second_daemon_on_the_same_state_root_is_refused_and_the_first_keeps_serving(daemon: Daemon) -> None:
    second = refused(daemon)

    assert second.returncode == 1
    assert str(daemon.state_root) in second.stderr
    assert "another daemon" in second.stderr
    assert daemon.call("GET", "/v1/status")["ready"] is True


def test_after_a_kill_a_new_start_takes_the_lock(daemon: Daemon) -> None:
    daemon.restart()

    lock = daemon.call("GET", "/v1/status")["storage"]["state_root_lock"]
    assert (daemon.state_root / "daemon.lock").read_text() == f"pid={daemon.pid}\nmechanism=flock\n"
    assert (lock["held"], lock["mechanism"]) == (True, "flock")


def test_sigterm_on_an_idle_daemon_exits_with_status_0(daemon: Daemon) -> None:
    daemon.session()

    assert daemon.terminate() == 0


def test_sigterm_with_an_open_stream_exits_with_status_0(daemon: Daemon) -> None:
    with daemon.stream("/v1/events/stream"):
        assert daemon.terminate() == 0


def test_while_draining_readyz_is_503_and_the_run_resumes_after_the_restart(served: Served) -> None:
    hold = threading.Event()

    def respond(request: Request) -> Response:
        return Stream(answer=Answer(text="whole"), hold_after=1, hold=hold if request.number == 0 else None)

    daemon, server = served(respond)
    run_id = daemon.submit(daemon.session())
    server.wait_for_requests(1)
    daemon.signal(signal.SIGTERM)

    def draining() -> httpx2.Response | None:
        response = httpx2.get(daemon.url + "/readyz", timeout=DEADLINE_S)
        return response if response.status_code == 503 else None

    assert wait_for(draining, "readyz never turned 503").json()["code"] == "daemon_draining"
    assert daemon.call("GET", "/v1/status")["status"] == "draining"
    daemon.call("POST", "/v1/sessions/demo/runs", {"content": "no"}, status=503)
    daemon.signal(signal.SIGKILL)
    hold.set()
    daemon.stop()
    daemon.start()
    assert daemon.wait(run_id)["status"] == "completed"


def test_a_second_signal_ends_the_process_at_once(served: Served) -> None:
    hold = threading.Event()
    daemon, server = served(Stream(answer=Answer(text="x"), hold_after=1, hold=hold))
    run_id = daemon.submit(daemon.session())
    server.wait_for_requests(1)
    daemon.signal(signal.SIGTERM)
    wait_for(lambda: "daemon.draining" in daemon.log(), "no drain began")

    assert daemon.terminate() != 0
    hold.set()
    daemon.start()
    assert daemon.run(run_id)["status"] in ("running", "completed")


def test_a_drain_leaves_no_child_process_and_the_run_to_be_resumed(served: Served) -> None:
    def respond(request: Request) -> Response:
        if request.tool_results:
            return Answer(text="done")
        return Answer(calls=[Call(name="bash", arguments={"command": "echo $$ > pid; exec sleep 4242.9"})])

    arguments = ("--permission-mode", "bypass-permissions", "--drain-timeout-ms", "2000")
    daemon, _ = served(respond, arguments=arguments)
    run_id = daemon.submit(daemon.session())
    wait_for_text(daemon.workspace / "pid", "\n")
    pid = int((daemon.workspace / "pid").read_text())

    assert daemon.terminate() == 0
    assert not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes()
    daemon.start()
    assert daemon.wait(run_id)["status"] == "completed"


def test_a_port_in_use_is_a_clear_refusal(daemon: Daemon, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        other = refused(daemon, "--state-root", str(tmp_path / "other"), "--bind", f"127.0.0.1:{port}")

    assert other.returncode == 1
    assert str(port) in other.stderr


def test_several_routes_without_a_default_are_refused_with_and_without_the_option(
    daemon: Daemon, tmp_path: Path
) -> None:
    route = 'driver = "openai_compatible"\ndefault_model = "m"\nbase_url = "http://127.0.0.1:1/v1"\n'
    routes = tmp_path / "two.toml"
    routes.write_text(f"[routes.a]\n{route}[routes.b]\n{route}")
    root = ["--state-root", str(tmp_path / "other"), "--routes-file", str(routes)]

    for more in ([], ["--default-route", "a"]):
        found = refused(daemon, *root, *more)
        assert found.returncode == 1
        assert "default_route" in found.stderr


def test_a_broken_routes_file_is_named_by_line_and_never_quoted(daemon: Daemon, tmp_path: Path) -> None:
    routes = tmp_path / "broken.toml"
    routes.write_text('[routes.a]\ndriver = "openai"\napi_key = "sk-SECRET\n')
    found = refused(daemon, "--state-root", str(tmp_path / "other"), "--routes-file", str(routes))

    assert found.returncode == 1
    assert "line 3" in found.stderr
    assert "sk-SECRET" not in found.stderr + found.stdout


def test_no_route_and_no_key_is_refused_naming_the_variable(daemon: Daemon, tmp_path: Path) -> None:
    at = daemon.command.index("--routes-file")
    command = [*daemon.command[:at], *daemon.command[at + 2 :], "--state-root", str(tmp_path / "other")]
    env = {name: value for name, value in daemon.env.items() if not name.endswith("_API_KEY")}
    found = subprocess.run(command, env=env, capture_output=True, text=True, timeout=DEADLINE_S)

    assert found.returncode == 1
    assert "ANTHROPIC_API_KEY" in found.stderr


def test_a_removed_turn_ceiling_is_said_in_the_log(served: Served) -> None:
    daemon, _ = served(Answer(text="x"), env={"KHEISH_AGENT_MAX_TURNS": "0"})

    assert "no_turn_ceiling" in daemon.log()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--bind", "0.0.0.0:0", "--http-auth-mode", "none"), "--http-auth-mode none"),
        (("--bind", "0.0.0.0:0"), "--http-admin-token-file"),
        (("--http-auth-mode", "bearer"), "admin token"),
        (("--http-readonly-token", "hunter2"), "admin token"),
        (("--http-admin-token", "hunter2", "--http-readonly-token", "hunter2"), "the same"),
        (("--bind", "[::]:0"), "--http-admin-token-file"),
        (("--http-admin-token-file", "same", "--http-readonly-token-file", "same"), "the same"),
        (("--http-admin-token", "hunter2", "--http-admin-token-file", "same"), "given twice"),
        (("--http-admin-token", " "), "blank"),
        (("--http-admin-token-file", "blank"), "is blank"),
        (("--http-admin-token-file", "gone"), "cannot be read"),
        (("--http-cors-allow-origin", "*"), "--http-cors-allow-origin"),
        (("--http-cors-allow-origin", "https://example.com"), "--http-cors-allow-origin"),
    ],
)
def test_a_daemon_that_would_be_open_refuses_to_start_before_it_listens(
    tmp_path: Path, arguments: tuple[str, ...], named: str
) -> None:
    """auth-and-secrets cases 12 and 13."""
    for name, content in (("same", "hunter2"), ("blank", " \n")):
        (tmp_path / name).write_text(content)
    files = {name: str(tmp_path / name) for name in ("same", "blank", "gone")}
    ended = refused(Daemon(tmp_path, routes=SCRIPTED), *(files.get(word, word) for word in arguments))

    assert ended.returncode == 1
    assert named in ended.stderr
    assert "hunter2" not in ended.stderr
    assert not (tmp_path / "state").exists()


def test_the_audit_of_refusals_believes_no_header_about_who_called(daemon_for: Callable[..., Daemon]) -> None:
    daemon = daemon_for("", arguments=("--allow-empty-routes",), env={"KHEISH_DAEMON_ADMIN_TOKEN": "hunter2"})

    headers = {"Authorization": "Bearer wrong", "X-Forwarded-For": "203.0.113.9"}
    refused = httpx2.get(daemon.url + "/v1/status", headers=headers, timeout=DEADLINE_S)

    audit = daemon.state_root / "control-plane-auth" / "audit.jsonl"
    wait_for_text(audit, "auth_failure")
    told = json.loads(audit.read_text().splitlines()[0])
    assert refused.status_code == 401
    assert told["remote_addr"] == "127.0.0.1"


def test_with_an_admin_token_every_address_asks_for_it(daemon_for: Callable[..., Daemon]) -> None:
    daemon = daemon_for(
        SCRIPTED,
        arguments=("--bind", "0.0.0.0:0", "--allow-empty-routes"),
        env={"KHEISH_DAEMON_ADMIN_TOKEN": "hunter2"},
    )
    url = daemon.url.replace("0.0.0.0", "127.0.0.1")
    cli = [sys.executable, "-m", "kheish", "--base-url", url]

    def exit_status(*options: str) -> int:
        return subprocess.run([*cli, *options, "status"], env=daemon.env, capture_output=True).returncode

    assert httpx2.get(f"{url}/v1/status").status_code == 401
    assert httpx2.get(f"{url}/v1/status", headers={"authorization": "Bearer hunter2"}).status_code == 200
    assert httpx2.get(f"{url}/readyz").status_code == 200
    assert [exit_status(), exit_status("--token", "wrong"), exit_status("--token", "hunter2")] == [4, 4, 0]
