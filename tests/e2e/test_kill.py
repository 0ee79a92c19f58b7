"""kill -9 at each kind of step, with a real process, a real provider wire and real tools."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.daemon_process import Daemon, wait_for, wait_for_text
from tests.fakes.model_server import Answer, Call, ModelServer, Refusal, Request, Response, Stream

pytestmark = pytest.mark.e2e

Served = Callable[..., tuple[Daemon, ModelServer]]
BYPASS = ("--permission-mode", "bypass-permissions")


def bash(command: str) -> Call:
    return Call(name="bash", arguments={"command": command})


def once(call: Call, text: str = "done") -> Callable[[Request], Response]:
    """Ask for the call, then say ``text``."""
    return lambda request: Answer(text=text) if request.tool_results else Answer(calls=[call])


def alive(marker: str) -> list[str]:
    """Command lines of living processes that hold ``marker``."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if marker in line:
                found.append(line)
    return found


def test_killed_while_the_model_answers_the_call_is_made_again_and_the_half_answer_is_gone(served: Served) -> None:
    hold = threading.Event()

    def respond(request: Request) -> Response:
        answer = Answer(text="the whole answer")
        return Stream(answer=answer, hold_after=2, hold=hold) if request.number == 0 else answer

    daemon, server = served(respond)
    run_id = daemon.submit(daemon.session())
    server.wait_for_requests(1)
    with daemon.stream("/v1/events/stream?cursor=0") as frames:
        wait_for(lambda: next(frames).get("event") == "run_updated", "no event arrived")
    daemon.kill()
    hold.set()
    daemon.start()

    view = daemon.wait(run_id)
    assert view["status"] == "completed"
    assert [output["content"] for output in view["outputs"]] == ["the whole answer"]
    assert len(server.requests) == 2
    assert "resumed" in daemon.event_types(run_id)


def test_killed_while_a_command_runs_it_is_not_run_again_and_the_model_is_told(served: Served) -> None:
    daemon, server = served(once(bash("echo ran >> ran.log; exec sleep 4242.1")), arguments=BYPASS)
    run_id = daemon.submit(daemon.session())
    ran = daemon.workspace / "ran.log"
    wait_for_text(ran, "ran")
    daemon.restart()

    assert daemon.wait(run_id)["status"] == "completed"
    assert ran.read_text() == "ran\n"
    (output,) = server.requests[-1].tool_results.values()
    assert '"reason":"daemon_restart"' in output.replace(" ", "")
    assert alive("4242.1") == []
    resumed = next(event for event in daemon.events(run_id) if event["type"] == "resumed")
    assert (resumed["reason"], len(resumed["in_doubt_call_ids"])) == ("daemon_restart", 1)
    assert daemon.wait(daemon.submit("demo", "and now?"))["status"] == "completed"
    assert "tool_intended" in journal_types(daemon)


def test_killed_between_two_commands_the_first_result_is_reused(served: Served) -> None:
    def respond(request: Request) -> Response:
        first, second = bash("echo one >> ran.log"), bash("echo two >> ran.log; sleep 4242.2")
        calls = [first, Call(name="bash", arguments=second.arguments, id="call_2")]
        return Answer(text="done") if request.tool_results else Answer(calls=calls)

    daemon, server = served(respond, arguments=BYPASS)
    run_id = daemon.submit(daemon.session())
    wait_for_text(daemon.workspace / "ran.log", "two")
    daemon.restart()

    assert daemon.wait(run_id)["status"] == "completed"
    assert (daemon.workspace / "ran.log").read_text() == "one\ntwo\n"
    assert len(server.requests) == 2
    resumed = next(event for event in daemon.events(run_id) if event["type"] == "resumed")
    assert (len(resumed["reused_call_ids"]), len(resumed["in_doubt_call_ids"])) == (1, 1)


def test_killed_while_waiting_for_approval_the_same_request_waits_and_the_tool_runs_once(served: Served) -> None:
    daemon, server = served(once(bash("echo ran >> ran.log")))
    run_id = daemon.submit(daemon.session())
    before = daemon.wait(run_id, "waiting_for_approval")
    daemon.restart()

    after = daemon.run(run_id)
    assert after["pending_approvals"] == before["pending_approvals"]
    daemon.allow_all(run_id)
    assert daemon.wait(run_id)["status"] == "completed"
    assert (daemon.workspace / "ran.log").read_text() == "ran\n"
    assert len(server.requests) == 2


def test_killed_right_after_an_approval_the_command_runs_at_most_once(served: Served) -> None:
    daemon, server = served(once(bash("echo ran >> ran.log; sleep 0.5")))
    run_id = daemon.submit(daemon.session())
    daemon.allow_all(run_id)
    daemon.restart()

    view = daemon.wait(run_id)
    ran = daemon.workspace / "ran.log"
    assert view["status"] == "completed"
    assert (ran.read_text() if ran.exists() else "") in ("", "ran\n")
    assert len(server.requests) == 2


def test_killed_while_a_question_waits_the_answer_completes_the_run(served: Served) -> None:
    questions = [
        {"id": "db", "question": "Which?", "options": [{"id": "pg", "label": "P"}, {"id": "my", "label": "M"}]}
    ]
    daemon, server = served(once(Call(name="ask_user_question", arguments={"questions": questions})))
    run_id = daemon.submit(daemon.session())
    before = daemon.wait(run_id, "waiting_for_user_question")
    daemon.restart()

    after = daemon.run(run_id)
    assert after["pending_questions"] == before["pending_questions"]
    answers = [{"question_id": "db", "selected_option_ids": ["pg"]}]
    resolution = {"request_id": after["pending_question_ids"][0], "answers": answers}
    daemon.call("POST", f"/v1/runs/{run_id}/questions", {"resolution": resolution}, status=202)
    assert daemon.wait(run_id)["status"] == "completed"
    assert "pg" in next(iter(server.requests[-1].tool_results.values()))


def test_killed_while_waiting_to_retry_the_wait_goes_on_and_the_attempt_counts(served: Served) -> None:
    daemon, server = served(Refusal(status=529, headers={"Retry-After": "2"}))
    run_id = daemon.submit(daemon.session())
    server.wait_for_requests(1)
    wait_for(lambda: "model_failed" in journal_types(daemon), "the failure was not recorded")
    daemon.restart()

    view = daemon.wait(run_id)
    assert view["status"] == "failed"
    assert "529" in view["error"]
    assert len(server.requests) == 2


def test_killed_with_a_queue_the_runs_go_on_in_order(served: Served) -> None:
    def respond(request: Request) -> Response:
        if request.user_text == "first" and not request.tool_results:
            return Answer(calls=[bash("echo started >> ran.log; sleep 4242.4")])
        return Answer(text=f"did {request.user_text}")

    daemon, _ = served(respond, arguments=BYPASS)
    session = daemon.session()
    runs = [daemon.submit(session, name) for name in ("first", "second", "third")]
    wait_for_text(daemon.workspace / "ran.log", "started")
    daemon.restart()

    views = [daemon.wait(run_id) for run_id in runs]
    assert [view["status"] for view in views] == ["completed"] * 3
    assert views[0]["finished_at_ms"] <= views[1]["started_at_ms"] <= views[2]["started_at_ms"]


def journal_types(daemon: Daemon) -> set[str]:
    with sqlite3.connect(f"file:{daemon.state_root / 'kheish.db'}?mode=ro", uri=True) as connection:
        return {row[0] for row in connection.execute("SELECT type FROM journal")}
