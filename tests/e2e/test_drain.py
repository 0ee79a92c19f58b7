"""A drain under load: in time, with status 0, leaving nobody behind and nothing undone."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.daemon_process import Daemon, wait_for
from tests.fakes.model_server import Answer, Call, ModelServer, Request, Response, Stream

pytestmark = pytest.mark.e2e
Served = Callable[..., tuple[Daemon, ModelServer]]
FREE = ("--permission-mode", "bypass-permissions")


def alive(marker: str) -> list[int]:
    """Processes, zombies left out, that have the marker in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                if marker.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def test_twenty_busy_sessions_drain_in_time_and_all_go_on_after_the_restart(served: Served) -> None:
    hold = threading.Event()

    def respond(request: Request) -> Response:
        if request.tool_results or "talk" in request.user_text:
            return Stream(answer=Answer(text="done"), hold_after=1, hold=None if released.is_set() else hold)
        return Answer(calls=[Call(name="bash", arguments={"command": "echo once >> ran-$PPID; exec sleep 4242.7"})])

    released = threading.Event()
    daemon, server = served(respond, arguments=(*FREE, "--drain-timeout-ms", "3000"))
    runs = []
    for number in range(20):
        daemon.session(f"s{number}")
        runs.append(daemon.submit(f"s{number}", "talk" if number % 2 else "work"))
        runs.append(daemon.submit(f"s{number}", "talk"))
    server.wait_for_requests(20)
    wait_for(lambda: len(alive("4242.7")) >= 10, "the commands did not start", daemon.log)
    started = time.monotonic()

    assert daemon.terminate() == 0
    assert alive("4242.7") == []
    assert time.monotonic() - started < 30
    released.set()
    hold.set()
    daemon.start()
    for run_id in runs:
        assert daemon.wait(run_id)["status"] == "completed", run_id


def test_children_that_ignore_signals_or_went_to_the_background_do_not_survive(served: Served) -> None:
    command = (
        "trap '' TERM INT HUP; (trap '' TERM INT HUP; exec -a marker-91 sleep 4242) & exec -a marker-91 sleep 4242"
    )

    def respond(request: Request) -> Answer:
        if request.tool_results:
            return Answer(text="done")
        return Answer(calls=[Call(name="bash", arguments={"command": command})])

    daemon, _ = served(respond, arguments=(*FREE, "--drain-timeout-ms", "2500"))
    daemon.submit(daemon.session())
    wait_for(lambda: len(alive("marker-91")) >= 2, "the children did not start", daemon.log)

    assert daemon.terminate() == 0
    assert alive("marker-91") == []


def test_what_waits_for_a_human_is_the_same_after_a_drain(served: Served) -> None:
    def respond(request: Request) -> Answer:
        if request.tool_results or "talk" in request.user_text:
            return Answer(text="done")
        return Answer(calls=[Call(name="bash", arguments={"command": "echo once >> ran"})])

    daemon, _ = served(respond)
    waiting, queued = daemon.submit(daemon.session()), daemon.submit("demo", "talk")
    before = daemon.wait(waiting, "waiting_for_approval")

    assert daemon.terminate() == 0
    daemon.start()
    after = daemon.run(waiting)
    assert (after["status"], after["pending_approvals"]) == (before["status"], before["pending_approvals"])
    assert daemon.run(queued)["status"] == "queued"
    daemon.allow_all(waiting)
    assert daemon.wait(queued)["status"] == "completed"
    assert (daemon.workspace / "ran").read_text().split() == ["once"]


def test_clients_that_never_finish_hold_nothing(daemon: Daemon) -> None:
    host, port = daemon.url.removeprefix("http://").split(":")
    half = socket.create_connection((host, int(port)))
    head = b"POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\ncontent-type: application/json\r\ncontent-length: 99\r\n"
    half.sendall(head + b"\r\n{")
    silent = socket.create_connection((host, int(port)))
    with daemon.stream("/v1/events/stream"), half, silent:
        assert daemon.terminate() == 0


def test_a_stream_ends_cleanly_when_the_daemon_drains(daemon: Daemon) -> None:
    daemon.session()
    daemon.wait(daemon.submit("demo"))
    with daemon.stream("/v1/events/stream", params={"cursor": "0"}) as frames:
        seen = [next(frames)]
        assert daemon.terminate() == 0
        seen += frames

    ended = [json.loads(frame["data"])["run"]["status"] for frame in seen if frame["event"] == "run_updated"]
    assert ended[-1] == "completed"
