"""Waiting for a run: when it ends, with which exit code, and what it bears."""

from __future__ import annotations

import json
import socket
import threading

import pytest

from kheish.cli.waiting import Wait
from tests.cli.conftest import CommandLine
from tests.cli.recording_daemon import Answer, Asked, RecordingDaemon, problem, run

FAST = ("--poll-interval-ms", "1")
GRACE = "KHEISH_DAEMON_WAIT_TRANSIENT_ERROR_GRACE_MS"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("completed", 0),
        ("failed", 9),
        ("interrupted", 9),
        ("cancelled", 9),
        ("waiting_for_approval", 10),
        ("waiting_for_user_question", 10),
    ],
)
def test_a_wait_ends_when_the_run_is_over_or_needs_a_human_and_prints_it(
    daemon: RecordingDaemon, kheish: CommandLine, status: str, code: int
) -> None:
    daemon.answers["POST /v1/sessions/demo/runs"] = (202, run(status="queued"))
    daemon.answers["GET /v1/runs/run-1"] = [
        (200, run(status="queued")),
        (200, run(status="running")),
        (200, run(status=status)),
    ]
    for words in (("sessions", "input", "demo", "hi", "--wait"), ("runs", "wait", "run-1")):
        result = kheish(*words, *FAST)
        assert (result.exit_code, json.loads(result.stdout)) == (code, run(status=status))
    assert daemon.requests().count(("GET", "/v1/runs/run-1")) == 4


def test_without_wait_the_queued_run_is_printed_and_nothing_is_polled(
    daemon: RecordingDaemon, kheish: CommandLine
) -> None:
    daemon.answers["POST /v1/sessions/demo/runs"] = (202, run(status="queued"))
    result = kheish("sessions", "input", "demo", "hi")
    assert (result.exit_code, len(daemon.asked)) == (0, 1)
    assert json.loads(result.stdout)["status"] == "queued"


def test_the_poll_interval_has_a_floor() -> None:
    assert Wait(enabled=True, poll_interval_ms=1).poll_seconds == 0.05
    assert Wait(enabled=True, poll_interval_ms=700).poll_seconds == 0.7


def test_a_wait_that_takes_too_long_ends_with_7_and_prints_the_run_as_it_is(
    daemon: RecordingDaemon, kheish: CommandLine
) -> None:
    daemon.answers["GET /v1/runs/run-1"] = (200, run(status="running"))
    result = kheish("runs", "wait", "run-1", "--wait-timeout", "0.12", *FAST)
    assert (result.exit_code, json.loads(result.stdout)) == (7, run(status="running"))
    assert result.stderr == "error: run-1 was not over after 0.12 s; it goes on\n"


def test_an_error_status_is_not_waited_out(daemon: RecordingDaemon, kheish: CommandLine) -> None:
    daemon.answers["GET /v1/runs/run-1"] = [problem(503, "daemon_draining", "stopping"), (200, run())]
    assert (kheish("runs", "wait", "run-1", *FAST).exit_code, len(daemon.asked)) == (7, 1)


def test_a_daemon_that_comes_back_within_the_grace_is_waited_for(daemon: RecordingDaemon, kheish: CommandLine) -> None:
    looked = threading.Event()

    def break_the_connection_twice(asked: Asked) -> Answer:
        if len(daemon.asked) <= 2:
            looked.set()
            raise ConnectionAbortedError
        return 200, run()

    daemon.answers["GET /v1/runs/run-1"] = break_the_connection_twice
    result = kheish("runs", "wait", "run-1", *FAST)
    assert (result.exit_code, looked.is_set(), len(daemon.asked)) == (0, True, 3)


def test_a_daemon_that_stays_away_for_longer_than_the_grace_ends_the_wait_with_3(kheish: CommandLine) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        result = kheish("runs", "wait", "run-1", *FAST, KHEISH_DAEMON_URL=url, **{GRACE: "100"})
    assert (result.exit_code, result.stdout) == (3, "")


def test_a_grace_that_is_no_number_is_refused(daemon: RecordingDaemon, kheish: CommandLine) -> None:
    assert kheish("runs", "wait", "run-1", **{GRACE: "soon"}).exit_code == 1
    assert daemon.asked == []
