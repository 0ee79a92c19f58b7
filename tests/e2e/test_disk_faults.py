"""Disks that fail under a real process: a file-size limit of zero makes every write of the daemon fail."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.daemon_process import DEADLINE_S, Daemon, wait_for, wait_for_text
from tests.fakes.model_server import Answer, Call, ModelServer, Request

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit, which is of Linux"),
]
Served = Callable[..., tuple[Daemon, ModelServer]]


@contextmanager
def no_room(daemon: Daemon) -> Iterator[None]:
    before = resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        # The test may have killed it.
        with suppress(ProcessLookupError):
            resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, before)


def test_a_disk_without_room_refuses_new_work_and_what_runs_goes_on_when_there_is_room(served: Served) -> None:
    def respond(request: Request) -> Answer:
        if request.tool_results:
            return Answer(text="done")
        return Answer(calls=[Call(name="bash", arguments={"command": "echo once >> ran; until [ -e go ]; do :; done"})])

    daemon, server = served(respond, arguments=("--permission-mode", "bypass-permissions"))
    run_id = daemon.submit(daemon.session())
    wait_for_text(daemon.workspace / "ran", "once")
    with no_room(daemon):
        (daemon.workspace / "go").touch()
        refused = daemon.call("POST", "/v1/sessions/demo/runs", {"content": "no"}, status=503)

        def failing_twice() -> Any:
            found = daemon.call("GET", "/v1/status")
            return found if found["storage"]["write_error_count"] >= 2 else None

        status = wait_for(failing_twice, "the result was written after all")

        assert (refused["domain"], refused["code"]) == ("storage", "store_unavailable")
        assert status["storage"]["store_writable"] is False
        assert status["storage"]["ok"] is False
        assert {probe["state"] for probe in status["storage"]["probes"]} == {"error"}
        assert daemon.run(run_id)["status"] == "running"
    assert daemon.wait(run_id)["status"] == "completed"
    assert (daemon.workspace / "ran").read_text().split() == ["once"]
    assert len(server.requests) == 2
    assert len(daemon.call("GET", "/v1/runs")) == 1
    assert daemon.call("GET", "/v1/status")["storage"]["store_writable"] is True


def test_a_daemon_killed_on_a_disk_without_room_has_everything_it_answered(served: Served) -> None:
    daemon, _ = served(lambda request: Answer(text=f"echo: {request.user_text}"))
    daemon.session()
    accepted = [daemon.submit("demo", f"number {number}") for number in range(5)]
    with no_room(daemon):
        daemon.call("POST", "/v1/sessions/demo/runs", {"content": "no"}, status=503)
        daemon.kill()
    daemon.start()

    assert [daemon.wait(run_id)["status"] for run_id in accepted] == ["completed"] * 5
    assert len(daemon.call("GET", "/v1/runs")) == 5


def test_a_log_that_cannot_be_written_stops_nothing(served: Served) -> None:
    """The daemon's own log is on the disk without room as well."""
    daemon, _ = served(lambda request: Answer(text="ok"))
    daemon.session()
    with no_room(daemon):
        for _ in range(3):
            daemon.call("POST", "/v1/sessions/demo/runs", {"content": "no"}, status=503)
    assert daemon.wait(daemon.submit("demo"))["status"] == "completed"


def test_a_state_root_that_cannot_be_written_is_refused_by_name(daemon: Daemon, tmp_path: Path) -> None:
    """On a file system that is really mounted read-only, in a mount namespace of its own."""
    state = tmp_path / "closed"
    state.mkdir()
    closed = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o ro tmpfs "$0" && exec "$@"', str(state)]
    if subprocess.run([*closed, "true"], capture_output=True).returncode != 0:
        pytest.skip("nothing can be mounted here")
    command = [*closed, *daemon.command, "--state-root", str(state)]
    done = subprocess.run(command, env=daemon.env, capture_output=True, text=True, timeout=DEADLINE_S)

    assert done.returncode == 1, done.stderr
    assert f"The state root {state} is not writable: Read-only file system" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_store_that_is_garbage_is_refused_with_one_line_that_says_what_to_do(daemon: Daemon) -> None:
    daemon.session()
    assert daemon.terminate() == 0
    (daemon.state_root / "kheish.db").write_bytes(b"garbage" * 5000)
    done = subprocess.run(daemon.command, env=daemon.env, capture_output=True, text=True, timeout=DEADLINE_S)
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error:")]

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert f"state verify --state-root {daemon.state_root}" in line
    assert "state restore" in line
