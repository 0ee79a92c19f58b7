"""A drain under load: in time, with status 0, leaving nobody behind and nothing undone."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.daemon_process import Daemon, wait_for
from tests.fakes.model_server import Answer, Call, ModelServer, Request, Response, Stream

pytestmark = pytest.mark.e2e
Served = Callable[..., tuple[Daemon, ModelServer]]
FREE = ("--permission-mode", "bypass-permissions")


def alive(marker: str) -> list[int]:
    """Processes, zombies left out, with the marker as their name or as an argument."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                if marker.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def test_twenty_busy_sessions_drain_in_time_and_all_go_on_after_the_restart(served: Served) -> None:
    hold = threading.Event()

    def respond(request: Request) -> Response:
        if request.tool_results or "talk" in request.user_text:
            return Stream(answer=Answer(text="done"), hold_after=1, hold=None if released.is_set() else hold)
        return Answer(calls=[Call(name="bash", arguments={"command": "echo once >> ran; exec sleep 4242.7"})])

    released = threading.Event()
    daemon, server = served(respond, arguments=FREE)
    runs = []
    for number in range(20):
        daemon.session(f"s{number}")
        runs.append(daemon.submit(f"s{number}", "talk" if number % 2 else "work"))
        runs.append(daemon.submit(f"s{number}", "talk"))
    server.wait_for_requests(20)
    wait_for(lambda: len(alive("4242.7")) >= 10, "the commands did not start", daemon.log)

    # A second after the deadline it would have ended itself, with another status.
    assert daemon.terminate() == 0
    assert alive("4242.7") == []
    released.set()
    hold.set()
    daemon.start()
    for run_id in runs:
        assert daemon.wait(run_id)["outputs"][-1]["content"] == "done", run_id
    assert (daemon.workspace / "ran").read_text().split() == ["once"] * 10


def test_children_that_ignore_signals_or_went_to_the_background_do_not_survive(served: Served) -> None:
    daemon = with_stubborn_children(served, "marker-91")

    assert daemon.terminate() == 0
    assert alive("marker-91") == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_leaves_no_child_either_and_says_which_it_was(served: Served, number: signal.Signals) -> None:
    marker = f"marker-92-{number}"
    daemon = with_stubborn_children(served, marker)
    daemon.signal(signal.SIGINT)
    wait_for(lambda: "daemon.draining" in daemon.log(), "no drain began")

    assert daemon.end(number) == 128 + number
    wait_for(lambda: alive(marker) == [], "a child survived")
    daemon.start()
    assert daemon.wait("run-1")["outputs"][-1]["content"] == "done"


def with_stubborn_children(served: Served, marker: str) -> Daemon:
    """A daemon whose command ignores signals, with one child in its own process group and one in another."""
    stubborn = f"trap '' TERM INT HUP; exec -a {marker} sleep 4242"
    command = f"({stubborn}) & set -m; ({stubborn}) & {stubborn}"

    def respond(request: Request) -> Answer:
        if request.tool_results:
            return Answer(text="done")
        return Answer(calls=[Call(name="bash", arguments={"command": command})])

    daemon, _ = served(respond, arguments=FREE)
    daemon.submit(daemon.session())
    wait_for(lambda: len(alive(marker)) >= 3, "the children did not start", daemon.log)
    return daemon


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


def test_an_open_question_is_the_same_after_a_drain_and_its_answer_counts(served: Served) -> None:
    options = [{"id": "pg", "label": "P"}, {"id": "my", "label": "M"}]
    questions = [{"id": "db", "question": "Which?", "options": options}]

    def respond(request: Request) -> Answer:
        if request.tool_results:
            return Answer(text=list(request.tool_results.values())[-1])
        return Answer(calls=[Call(name="ask_user_question", arguments={"questions": questions})])

    daemon, _ = served(respond)
    run_id = daemon.submit(daemon.session())
    before = daemon.wait(run_id, "waiting_for_user_question")

    assert daemon.terminate() == 0
    daemon.start()
    after = daemon.run(run_id)
    assert (after["status"], after["pending_questions"]) == (before["status"], before["pending_questions"])
    answers = [{"question_id": "db", "selected_option_ids": ["pg"]}]
    resolution = {"request_id": after["pending_question_ids"][0], "answers": answers}
    daemon.call("POST", f"/v1/runs/{run_id}/questions", {"resolution": resolution}, status=202)
    assert "pg" in daemon.wait(run_id)["outputs"][-1]["content"]


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
