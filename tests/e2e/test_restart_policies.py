"""kill -9 with a policy: interrupted runs, calls in doubt put to a human, and runs that say for themselves."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

import pytest

from tests.e2e.daemon_process import DEADLINE_S, Daemon, wait_for, wait_for_text
from tests.e2e.test_kill import BYPASS, Served, alive, bash, once
from tests.fakes.model_server import Answer, ModelServer, Request, Response

pytestmark = pytest.mark.e2e

ACTIVE = "daemon restarted while the run was active"
INTERRUPT = ("--restart-policy", "interrupt")


def unless_told(command: str) -> Callable[[Request], Response]:
    """Asks for the command in the first run; answers at once in every other."""

    def respond(request: Request) -> Response:
        if request.user_text == "go" and not request.tool_results:
            return Answer(calls=[bash(command)])
        return Answer(text=f"did {request.user_text}")

    return respond


def running(
    served: Served, command: str, *, arguments: tuple[str, ...] = BYPASS, **fields: object
) -> tuple[Daemon, ModelServer, str]:
    """A daemon with a run whose command has written `ran` and goes on."""
    daemon, server = served(unless_told(f"echo ran >> ran.log; {command}"), arguments=arguments)
    run_id = daemon.submit(daemon.session(), **fields)
    wait_for_text(daemon.workspace / "ran.log", "ran")
    return daemon, server, run_id


def ran(daemon: Daemon) -> str:
    return (daemon.workspace / "ran.log").read_text()


def test_under_the_policy_interrupt_the_running_run_ends_the_queued_one_runs_and_no_command_survives(
    served: Served,
) -> None:
    daemon, server, run_id = running(served, "exec sleep 4243.1", arguments=(*BYPASS, *INTERRUPT))
    queued = daemon.submit("demo", "second")
    daemon.restart()

    view = daemon.wait(run_id)
    assert (view["status"], view["error"]) == ("interrupted", ACTIVE)
    assert daemon.event_types(run_id)[-1] == "interrupted"
    assert daemon.wait(queued)["status"] == "completed"
    assert (ran(daemon), alive("4243.1")) == ("ran\n", [])
    assert daemon.call("GET", "/v1/runtime")["restart_policy"] == "interrupt"
    # The next run's model reads that the call was stopped; the interrupted run's model was not asked again.
    assert len(server.requests) == 2
    assert "interrupted" in next(iter(server.requests[-1].tool_results.values()))


def test_under_the_policy_interrupt_a_run_that_waits_for_a_human_waits_on(served: Served) -> None:
    daemon, _ = served(once(bash("echo ran >> ran.log")), arguments=INTERRUPT)
    run_id = daemon.submit(daemon.session())
    before = daemon.wait(run_id, "waiting_for_approval")
    daemon.restart()

    assert daemon.run(run_id)["pending_approvals"] == before["pending_approvals"]
    daemon.allow_all(run_id)
    assert daemon.wait(run_id)["status"] == "completed"
    assert ran(daemon) == "ran\n"


def test_a_run_that_says_interrupt_is_interrupted_by_a_daemon_that_resumes_and_the_other_way_round(
    served: Served,
) -> None:
    daemon, _, first = running(served, "sleep 4243.2", on_restart="interrupt")
    daemon.session("other")
    second = daemon.submit("other", on_restart="resume")
    wait_for(lambda: ran(daemon).count("ran") == 2, "the second command did not start")
    daemon.arguments = (*daemon.arguments, *INTERRUPT)
    daemon.restart()

    assert daemon.wait(first)["error"] == ACTIVE
    assert daemon.wait(second)["status"] == "completed"

    daemon.arguments = tuple(word for word in daemon.arguments if word not in INTERRUPT)
    third = daemon.submit(daemon.session("third"), on_restart="interrupt")
    wait_for(lambda: ran(daemon).count("ran") == 3, "the third command did not start")
    daemon.restart()
    assert (daemon.wait(third)["status"], daemon.run(third)["request"]["on_restart"]) == ("interrupted", "interrupt")


def cli(daemon: Daemon, *words: str) -> subprocess.CompletedProcess[str]:
    command = [daemon.command[0], "-m", "kheish", "--output", "json", "--base-url", daemon.url, *words]
    return subprocess.run(command, env=daemon.env, capture_output=True, text=True, timeout=DEADLINE_S, check=False)


def test_a_command_in_doubt_is_put_to_a_human_who_sees_it_and_lets_it_run_again(served: Served) -> None:
    daemon, server, run_id = running(served, "until [ -e go ]; do sleep 0.02; done; echo through", on_in_doubt="ask")
    daemon.restart()

    view = daemon.wait(run_id, "waiting_for_approval")
    (request,) = view["pending_approvals"]
    assert (request["in_doubt"], request["tool_name"], ran(daemon)) == (True, "bash", "ran\n")
    resumed, waiting = daemon.events(run_id)[-2:]
    assert (resumed["type"], resumed["in_doubt_call_ids"]) == ("resumed", [request["tool_call_id"]])
    assert (waiting["type"], waiting["requests"]) == ("waiting_for_approval", [request])
    (row,) = json.loads(cli(daemon, "approvals", "list").stdout)
    assert row["request"] == request

    # It waits over another kill as any approval does, and a person answers on the command line.
    daemon.restart()
    assert daemon.run(run_id)["pending_approvals"] == [request]
    (daemon.workspace / "go").touch()
    allowed = cli(daemon, "approvals", "allow", "demo", request["id"], "--wait")
    assert (allowed.returncode, json.loads(allowed.stdout)["status"]) == (0, "completed")
    assert ran(daemon) == "ran\nran\n"
    (output,) = server.requests[-1].tool_results.values()
    assert "through" in output
    assert len(server.requests) == 2


def test_a_command_in_doubt_that_is_denied_does_not_run_again_and_the_model_reads_that_it_may_have_run(
    served: Served,
) -> None:
    daemon, server, run_id = running(served, "exec sleep 4243.3", on_in_doubt="ask")
    daemon.restart()
    request_id = daemon.wait(run_id, "waiting_for_approval")["pending_approval_ids"][0]
    denied = cli(daemon, "approvals", "deny", "demo", request_id, "--reason", "the log has it", "--wait")

    assert (denied.returncode, json.loads(denied.stdout)["status"]) == (0, "completed")
    assert (ran(daemon), alive("4243.3")) == ("ran\n", [])
    (output,) = server.requests[-1].tool_results.values()
    assert "may or may not have taken effect and was not repeated" in output
    assert "the log has it" in output


def test_a_command_that_dies_with_its_daemon_each_time_is_asked_about_each_time(served: Served) -> None:
    daemon, _, run_id = running(served, "until [ -e go ]; do sleep 0.02; done", on_in_doubt="ask")
    seen = set()
    for attempt in range(2, 6):
        daemon.restart()
        seen.add(daemon.wait(run_id, "waiting_for_approval")["pending_approval_ids"][0])
        daemon.allow_all(run_id)
        wait_for(lambda times=attempt: ran(daemon).count("ran") == times, "the command did not run again")
    (daemon.workspace / "go").touch()

    assert daemon.wait(run_id)["status"] == "completed"
    assert (len(seen), ran(daemon).count("ran")) == (4, 5)
