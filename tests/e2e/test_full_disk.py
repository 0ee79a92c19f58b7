"""A file system that is really full under the state root."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import ROUTES
from tests.e2e.daemon_process import DEADLINE_S, Daemon, wait_for, wait_for_text
from tests.fakes.model_server import Answer, Call, ModelServer, Request

pytestmark = pytest.mark.e2e

FREE = ("--permission-mode", "bypass-permissions")
SIZE = "6m"


class SmallDisk:
    """A few megabytes, mounted where a daemon will have its state root."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._filler = place / "filler"

    @contextmanager
    def full(self) -> Iterator[None]:
        self.fill()
        try:
            yield
        finally:
            self.make_room()

    def fill(self) -> None:
        with FileIO(self._filler, "w") as file:
            for size in (1 << 16, 1 << 12):
                while written(file, b"\0" * size):
                    pass

    def make_room(self) -> None:
        self._filler.unlink()


def written(file: FileIO, content: bytes) -> bool:
    """Whether there was room for it."""
    try:
        file.write(content)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            return False
        raise
    return True


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    place = tmp_path / "daemon" / "state"
    place.mkdir(parents=True, mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=700", "tmpfs", str(place)]
    if sys.platform != "linux" or os.getuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("nothing can be mounted here")
    yield SmallDisk(place)
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def started(disk: SmallDisk) -> Iterator[Callable[[Callable[[Request], Answer]], tuple[Daemon, ModelServer]]]:
    made: list[Daemon] = []
    servers: list[ModelServer] = []

    def start(respond: Callable[[Request], Answer]) -> tuple[Daemon, ModelServer]:
        server = ModelServer(respond)
        servers.append(server)
        server.__enter__()
        daemon = Daemon(disk.place.parent, routes=ROUTES.format(url=server.url), arguments=FREE)
        made.append(daemon)
        daemon.start()
        return daemon, server

    yield start
    for daemon in made:
        daemon.stop()
    for server in servers:
        server.__exit__(None, None, None)


Started = Callable[[Callable[[Request], Answer]], tuple[Daemon, ModelServer]]


def echo(request: Request) -> Answer:
    return Answer(text=f"echo: {request.user_text[:20]}")


def refused_for_want_of_room(daemon: Daemon) -> dict[str, Any]:
    """Submit until the disk is full; what was accepted before that is gone on with."""
    for _ in range(200):
        answer = daemon.call("POST", "/v1/sessions/demo/runs", {"content": "x" * 200_000}, status=(202, 503))
        if "code" in answer:
            return dict(answer)
    raise AssertionError("the disk never became full")


def test_a_full_disk_refuses_work_tells_what_to_do_and_heals_when_there_is_room(
    disk: SmallDisk, started: Started
) -> None:
    daemon, _ = started(echo)
    daemon.submit(daemon.session())
    disk.fill()
    refused = refused_for_want_of_room(daemon)
    accepted = [run["run_id"] for run in daemon.call("GET", "/v1/runs")]

    def noticed() -> Any:
        storage = daemon.call("GET", "/v1/status")["storage"]
        return storage if not storage["ok"] else None

    storage = wait_for(noticed, "the status never said that the disk is full")
    probes = {probe["name"]: probe for probe in storage["probes"]}

    assert (refused["domain"], refused["code"]) == ("storage", "store_unavailable")
    assert "full" in storage["last_error"]["message"]
    assert storage["write_error_count"] >= 1
    assert probes["state_root"]["state"] == "error" or probes["store"]["state"] == "error"
    disk.make_room()
    for run_id in accepted:
        assert daemon.wait(run_id)["status"] == "completed"
    assert daemon.wait(daemon.submit("demo", "after"))["outputs"][-1]["content"] == "echo: after"
    assert [run["run_id"] for run in daemon.call("GET", "/v1/runs")][: len(accepted)] == accepted
    healed = daemon.call("GET", "/v1/status")["storage"]
    assert [probe["state"] for probe in healed["probes"] if probe["name"] == "store"] == ["ok"]


def test_a_long_result_that_has_no_room_is_kept_until_there_is_some(disk: SmallDisk, started: Started) -> None:
    """Short entries may still fit when this one does not: no reason to do the work again."""

    def respond(request: Request) -> Answer:
        if request.tool_results:
            return Answer(text="done")
        command = "echo once >> ran; until [ -e go ]; do :; done; head -c 60000 /dev/zero | tr '\\0' x"
        return Answer(calls=[Call(name="bash", arguments={"command": command})])

    daemon, server = started(respond)
    run_id = daemon.submit(daemon.session())
    wait_for_text(daemon.workspace / "ran", "once")
    with disk.full():
        refused_for_want_of_room(daemon)
        (daemon.workspace / "go").touch()
        wait_for(lambda: daemon.call("GET", "/v1/status")["sessions"]["waiting_for_store"], "the result was saved")
    assert daemon.wait(run_id)["status"] == "completed"
    assert (daemon.workspace / "ran").read_text().split() == ["once"]
    results = [text for request in server.requests for text in request.tool_results.values()]
    assert results
    assert all("interrupted" not in text for text in results)
    assert "resumed" not in daemon.event_types(run_id)


def test_killed_on_a_full_disk_and_started_when_there_is_room_everything_accepted_goes_on(
    disk: SmallDisk, started: Started
) -> None:
    daemon, _ = started(echo)
    daemon.submit(daemon.session())
    disk.fill()
    refused_for_want_of_room(daemon)
    accepted = [run["run_id"] for run in daemon.call("GET", "/v1/runs")]
    daemon.kill()
    disk.make_room()
    daemon.start()

    for run_id in accepted:
        assert daemon.wait(run_id)["status"] == "completed"
    assert [run["run_id"] for run in daemon.call("GET", "/v1/runs")] == accepted


def test_a_start_on_a_full_disk_is_refused_with_what_to_do_and_works_when_there_is_room(
    disk: SmallDisk, started: Started
) -> None:
    daemon, _ = started(echo)
    run_id = daemon.submit(daemon.session())
    daemon.wait(run_id)
    assert daemon.terminate() == 0
    with disk.full():
        done = subprocess.run(daemon.command, env=daemon.env, capture_output=True, text=True, timeout=DEADLINE_S)
        lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]

        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert len(lines) == 1
        assert "Make room" in lines[0]
    daemon.start()
    assert daemon.run(run_id)["status"] == "completed"
