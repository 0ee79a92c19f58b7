"""System calls that fail under a real daemon: what was refused stays refused, what was done is kept, all heals."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.daemon_process import Daemon, wait_for, wait_for_text
from tests.fakes.model_server import Answer, Call, ModelServer, Request, Response, Stream
from tests.faults.failing_disk import MISSING, FailingDisk

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(MISSING is not None, reason=str(MISSING))]

Served = Callable[..., tuple[Daemon, ModelServer]]
FREE = ("--permission-mode", "bypass-permissions")


@pytest.fixture
def disk(tmp_path: Path) -> FailingDisk:
    return FailingDisk(tmp_path)


def echo(request: Request) -> Answer:
    return Answer(text=f"echo: {request.user_text}")


def storage(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = daemon.call("GET", "/v1/status")["storage"]
    return found


def store_probe(daemon: Daemon) -> dict[str, Any]:
    [probe] = [probe for probe in storage(daemon)["probes"] if probe["name"] == "store"]
    assert isinstance(probe, dict)
    return probe


@pytest.mark.parametrize("order", ["sync kheish.db-wal", "write kheish.db-wal"])
def test_a_log_that_cannot_be_written_or_synced_refuses_work_shows_itself_and_heals(
    served: Served, disk: FailingDisk, order: str
) -> None:
    daemon, _ = served(echo, env=disk.env)
    first = daemon.submit(daemon.session())
    assert daemon.wait(first)["status"] == "completed"
    with disk.failing(order):
        refused = daemon.call("POST", "/v1/sessions/demo/runs", {"content": "no"}, status=503)
        probe = store_probe(daemon)

        assert (refused["domain"], refused["code"]) == ("storage", "store_unavailable")
        assert (probe["state"], probe["writable"], probe["code"]) == ("error", False, "store_unavailable")
        assert probe["action"]
        assert storage(daemon)["last_error"]["message"] == "disk I/O error"
        assert [run["run_id"] for run in daemon.call("GET", "/v1/runs")] == [first]
    second = daemon.submit("demo", "again")
    assert daemon.wait(second)["outputs"][-1]["content"] == "echo: again"
    assert store_probe(daemon)["state"] == "ok"
    daemon.restart()
    assert [run["run_id"] for run in daemon.call("GET", "/v1/runs")] == [first, second]


def test_what_a_failed_sync_refused_is_not_there_after_a_kill(served: Served, disk: FailingDisk) -> None:
    """The frames of the refused commit are in the log, whole and valid, when the process dies."""
    daemon, server = served(echo, env=disk.env)
    daemon.wait(daemon.submit(daemon.session()))
    with disk.failing("sync kheish.db-wal"):
        daemon.call("POST", "/v1/sessions/demo/runs", {"content": "refused"}, status=503)
        daemon.kill()
    daemon.start()

    assert [run["run_id"] for run in daemon.call("GET", "/v1/runs")] == ["run-1"]
    assert daemon.call("GET", "/v1/sessions/demo")["snapshot"]["journal_len"] > 0
    assert [request.user_text for request in server.requests] == ["go"]


def test_a_refused_submission_with_a_key_is_one_run_when_it_is_repeated_after_a_kill(
    served: Served, disk: FailingDisk
) -> None:
    daemon, server = served(echo, env=disk.env)
    daemon.session()
    headers = {"Idempotency-Key": "mine"}
    with disk.failing("sync kheish.db-wal"):
        daemon.call("POST", "/v1/sessions/demo/runs", {"content": "once"}, status=503, headers=headers)
        daemon.kill()
    daemon.start()
    views = [daemon.call("POST", "/v1/sessions/demo/runs", {"content": "once"}, headers=headers) for _ in range(2)]

    assert len({view["run_id"] for view in views}) == 1
    assert daemon.wait(views[0]["run_id"])["status"] == "completed"
    assert len(daemon.call("GET", "/v1/runs")) == 1
    assert len(server.requests) == 1


def test_what_a_model_and_a_command_did_meanwhile_is_kept_and_saved_later(served: Served, disk: FailingDisk) -> None:
    def respond(request: Request) -> Answer:
        if request.tool_results:
            return Answer(text=str(list(request.tool_results.values())[-1]))
        return Answer(calls=[Call(name="bash", arguments={"command": "echo once >> ran; until [ -e go ]; do :; done"})])

    daemon, server = served(respond, arguments=FREE, env=disk.env)
    run_id = daemon.submit(daemon.session())
    wait_for_text(daemon.workspace / "ran", "once")
    with disk.failing("sync kheish.db-wal"):
        (daemon.workspace / "go").touch()
        wait_for(lambda: daemon.call("GET", "/v1/status")["sessions"]["waiting_for_store"], "the result was saved")
        assert daemon.run(run_id)["status"] == "running"
    done = daemon.wait(run_id)

    assert done["status"] == "completed"
    assert "interrupted" not in str(done["outputs"])
    assert (daemon.workspace / "ran").read_text().split() == ["once"]
    assert len(server.requests) == 2
    assert "resumed" not in daemon.event_types(run_id)


def test_a_database_file_that_cannot_be_synced_costs_nothing_for_the_log_has_it(
    served: Served, disk: FailingDisk
) -> None:
    """Each checkpoint fails; a commit needs only the log."""
    daemon, _ = served(lambda request: Answer(text="ok"), env=disk.env)
    daemon.session()
    with disk.failing("sync kheish.db"):
        runs = [daemon.submit("demo", "x" * 1_500_000) for _ in range(6)]
        for run_id in runs:
            assert daemon.wait(run_id)["status"] == "completed"
        assert storage(daemon)["write_error_count"] == 0
        daemon.kill()
    daemon.start()

    assert [run["run_id"] for run in daemon.call("GET", "/v1/runs")] == runs
    assert len(daemon.call("GET", "/v1/sessions/demo/events")["session"]["journal"]) >= 12


def test_a_database_that_cannot_be_read_is_a_problem_for_whoever_needs_it_and_heals(
    served: Served, disk: FailingDisk
) -> None:
    daemon, _ = served(echo, env=disk.env)
    run_id = daemon.submit(daemon.session())
    daemon.wait(run_id)
    daemon.restart()
    with disk.failing("read kheish.db", "read kheish.db-wal"):
        broken = daemon.call("GET", "/v1/sessions/demo/events", status=503)
        status = daemon.call("GET", "/v1/status")

        assert (broken["domain"], broken["code"]) == ("storage", "store_unreadable")
        assert status["storage"]["read_error_count"] >= 1
        assert status["storage"]["last_error"]["message"] == "disk I/O error"
    assert daemon.call("GET", "/v1/sessions/demo/events")["run_events"]
    assert daemon.wait(daemon.submit("demo"))["status"] == "completed"
    assert daemon.run(run_id)["status"] == "completed"


def test_a_disk_that_hangs_does_not_hold_up_a_shutdown_and_no_child_survives(served: Served, disk: FailingDisk) -> None:
    hold = threading.Event()

    def respond(request: Request) -> Response:
        if "talk" in request.user_text:
            return Stream(answer=Answer(text="x"), hold_after=1, hold=hold)
        return Answer(calls=[Call(name="bash", arguments={"command": "sleep 4243.5 & echo $! > pid; wait"})])

    daemon, server = served(respond, arguments=(*FREE, "--drain-timeout-ms", "3000"), env=disk.env)
    daemon.submit(daemon.session("a"))
    daemon.submit(daemon.session("b"), "talk")
    wait_for_text(daemon.workspace / "pid", "\n")
    server.wait_for_requests(2)
    child = Path(f"/proc/{(daemon.workspace / 'pid').read_text().strip()}/cmdline")
    with disk.failing("hang kheish.db-wal"):
        status = daemon.terminate()
        hold.set()
    assert status == 1
    assert "drain_deadline_exceeded" in daemon.log()
    wait_for(lambda: not child.exists() or not child.read_bytes(), "a child of a tool survived")
