"""Approvals and questions: which run is answered, with what, and what is printed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cli.conftest import CommandLine
from tests.cli.recording_daemon import RecordingDaemon, problem, run


def _approval(session_id: str, run_id: str, request_id: str) -> dict[str, Any]:
    return {"session_id": session_id, "run_id": run_id, "request": {"id": request_id, "tool_name": "bash"}}


def _question(session_id: str, run_id: str, request_id: str) -> dict[str, Any]:
    options = [{"id": "pg", "label": "Postgres"}, {"id": "lite", "label": "SQLite"}]
    questions = [
        {"id": "db", "question": "Which?", "options": options, "multi_select": False},
        {"id": "also", "question": "What else?", "options": options, "multi_select": True},
        {"id": "why", "question": "Why?", "options": []},
    ]
    return {"session_id": session_id, "run_id": run_id, "request": {"id": request_id, "questions": questions}}


@pytest.fixture(autouse=True)
def answers(daemon: RecordingDaemon) -> None:
    rows = [_approval("s1", "run-1", "a"), _approval("s1", "run-1", "b"), _approval("s2", "run-2", "c")]
    asked = [_question("s1", "run-3", "q"), _question("s2", "run-4", "q"), _question("s2", "run-5", "r")]
    daemon.answers.update({"GET /v1/approvals": (200, rows), "GET /v1/questions": (200, asked)})
    for number in range(1, 6):
        resumed = (202, run(f"run-{number}", "running"))
        daemon.answers[f"POST /v1/runs/run-{number}/approvals"] = resumed
        daemon.answers[f"POST /v1/runs/run-{number}/questions"] = resumed
        daemon.answers[f"GET /v1/runs/run-{number}"] = (200, run(f"run-{number}", "completed"))


def _posts(daemon: RecordingDaemon) -> list[tuple[str, Any]]:
    return [(asked.path, asked.body) for asked in daemon.asked if asked.method == "POST"]


def test_allow_all_sends_one_batch_per_run_and_sums_up(daemon: RecordingDaemon, kheish: CommandLine) -> None:
    words = ["approvals", "approve-all", "--justification", "fine", "--idempotency-key", "k", "--wait"]
    result = kheish(*words, "--poll-interval-ms", "1")
    assert _posts(daemon) == [
        (
            "/v1/runs/run-1/approvals",
            {
                "resolutions": [
                    {"request_id": "a", "behavior": "allow", "justification": "fine"},
                    {"request_id": "b", "behavior": "allow", "justification": "fine"},
                ]
            },
        ),
        (
            "/v1/runs/run-2/approvals",
            {"resolutions": [{"request_id": "c", "behavior": "allow", "justification": "fine"}]},
        ),
    ]
    assert {asked.headers["idempotency-key"] for asked in daemon.asked if asked.method == "POST"} == {"k"}
    assert (result.exit_code, json.loads(result.stdout)) == (
        0,
        {
            "resolved_requests": 3,
            "affected_sessions": 2,
            "runs": [run("run-1", "completed"), run("run-2", "completed")],
        },
    )


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [("completed", "failed", 9), ("waiting_for_approval", "failed", 9), ("waiting_for_approval", "completed", 10)],
)
def test_a_bulk_wait_ends_with_the_code_of_the_worst_run(
    daemon: RecordingDaemon, kheish: CommandLine, first: str, second: str, code: int
) -> None:
    daemon.answers["GET /v1/runs/run-1"] = (200, run("run-1", first))
    daemon.answers["GET /v1/runs/run-2"] = (200, run("run-2", second))
    assert kheish("approvals", "deny-all", "--reason", "no", "--wait").exit_code == code


def test_a_batch_that_is_refused_does_not_keep_the_others_waiting(daemon: RecordingDaemon, kheish: CommandLine) -> None:
    daemon.answers["POST /v1/runs/run-1/approvals"] = problem(409, "approval_state_conflict", "too late")
    result = kheish("approvals", "allow-all")
    assert (result.exit_code, result.stderr) == (6, "error: HTTP 409 (approval_state_conflict): run-1: too late\n")
    assert json.loads(result.stdout) == {
        "resolved_requests": 1,
        "affected_sessions": 1,
        "runs": [run("run-2", "running")],
    }


def test_with_nothing_pending_allow_all_prints_zeros(daemon: RecordingDaemon, kheish: CommandLine) -> None:
    daemon.answers["GET /v1/approvals"] = (200, [])
    result = kheish("approvals", "allow-all", "--wait", "--session-id", "s1")
    assert (result.exit_code, daemon.asked[0].query) == (0, {"session_id": "s1"})
    assert json.loads(result.stdout) == {"resolved_requests": 0, "affected_sessions": 0, "runs": []}


def test_allow_and_deny_go_to_the_run_that_waits(daemon: RecordingDaemon, kheish: CommandLine) -> None:
    kheish("approvals", "allow", "s1", "b", "--updated-input-json", '{"x":1}', "--justification", "ok")
    kheish("sessions", "approve", "s1", "a")
    kheish("sessions", "deny", "s2", "c", "--reason", "no")
    assert _posts(daemon) == [
        (
            "/v1/runs/run-1/approvals",
            {
                "resolutions": [
                    {"request_id": "b", "behavior": "allow", "updated_input": {"x": 1}, "justification": "ok"}
                ]
            },
        ),
        ("/v1/runs/run-1/approvals", {"resolutions": [{"request_id": "a", "behavior": "allow"}]}),
        ("/v1/runs/run-2/approvals", {"resolutions": [{"request_id": "c", "behavior": "deny", "reason": "no"}]}),
    ]


def test_a_repeated_allow_finds_the_run_it_resolved_before(daemon: RecordingDaemon, kheish: CommandLine) -> None:
    daemon.answers["GET /v1/approvals"] = (200, [])
    daemon.answers["GET /v1/runs"] = (
        200,
        [run("run-1", request={"approval_count": 1}), run("run-2", request={"approval_count": 2}), run("run-3")],
    )
    daemon.answers["GET /v1/runs/run-1/events"] = (
        200,
        [{"event": {"type": "waiting_for_approval", "request_ids": ["old"]}}, {"event": {"type": "completed"}}],
    )
    daemon.answers["GET /v1/runs/run-2/events"] = (200, [{"event": {"type": "accepted"}}])
    assert kheish("approvals", "allow", "s1", "old", "--idempotency-key", "k").exit_code == 0
    assert _posts(daemon)[0][0] == "/v1/runs/run-1/approvals"


def test_an_allow_without_an_owner_shows_what_the_daemon_says(daemon: RecordingDaemon, kheish: CommandLine) -> None:
    daemon.answers.update({"GET /v1/approvals": (200, []), "GET /v1/runs": (200, [])})
    daemon.answers["POST /v1/sessions/s1/approval-runs"] = problem(409, "run_state_conflict", "no active run")
    assert kheish("approvals", "allow", "s1", "x").exit_code == 6


def test_show_tells_requests_of_the_same_id_apart(daemon: RecordingDaemon, kheish: CommandLine) -> None:
    assert json.loads(kheish("approvals", "show", "b").stdout)["run_id"] == "run-1"
    assert json.loads(kheish("questions", "show", "r").stdout)["run_id"] == "run-5"
    assert kheish("approvals", "show", "nope").exit_code == 1
    ambiguous = kheish("questions", "show", "q")
    assert ambiguous.exit_code == 1
    assert "--session-id" in ambiguous.stderr


ANSWERS = [{"question_id": "db", "selected_option_ids": ["pg"]}, {"question_id": "why", "freeform_answer": "because"}]


@pytest.mark.parametrize("given", [ANSWERS, {"db": ["pg"], "why": "because"}])
def test_answers_are_a_list_or_a_mapping(daemon: RecordingDaemon, kheish: CommandLine, given: object) -> None:
    result = kheish("questions", "answer", "r", "--answers-json", json.dumps(given), "--wait", "--justification", "j")
    assert (result.exit_code, json.loads(result.stdout)["status"]) == (0, "completed")
    assert _posts(daemon) == [
        ("/v1/runs/run-5/questions", {"resolution": {"request_id": "r", "answers": ANSWERS, "justification": "j"}})
    ]


def test_answers_can_be_typed_and_wrong_numbers_are_asked_again(daemon: RecordingDaemon, kheish: CommandLine) -> None:
    result = kheish("questions", "answer", "q", "--run-id", "run-4", "--interactive", stdin="3\n1,2\n\n2\n1, 2\nso\n")
    assert result.exit_code == 0
    assert _posts(daemon)[0] == (
        "/v1/runs/run-4/questions",
        {
            "resolution": {
                "request_id": "q",
                "answers": [
                    {"question_id": "db", "selected_option_ids": ["lite"]},
                    {"question_id": "also", "selected_option_ids": ["pg", "lite"]},
                    {"question_id": "why", "freeform_answer": "so"},
                ],
            }
        },
    )
    assert kheish("questions", "answer", "r", "--interactive", stdin="1\n").exit_code == 1
    assert len(_posts(daemon)) == 1


def test_a_decline_and_a_named_run_need_no_answers_and_no_list(daemon: RecordingDaemon, kheish: CommandLine) -> None:
    assert (
        kheish("questions", "answer", "q", "--run-id", "run-3", "--declined", "--idempotency-key", "k").exit_code == 0
    )
    assert daemon.requests() == [("POST", "/v1/runs/run-3/questions")]
    assert daemon.asked[0].body == {"resolution": {"request_id": "q", "declined": True}}
    assert daemon.asked[0].headers["idempotency-key"] == "k"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("answer", "q"), 2),
        (("answer", "q", "--declined", "--answers-json", "[]"), 2),
        (("answer", "q", "--declined", "--interactive"), 2),
        (("answer", "q", "--declined"), 1),
        (("answer", "r", "--answers-json", "3"), 1),
        (("answer", "r", "--answers-json", '{"db": 3}'), 1),
        (("cancel", "r", "--idempotency-key", "k"), 2),
        (("cancel", "q"), 1),
    ],
)
def test_an_unclear_answer_is_not_sent(
    daemon: RecordingDaemon, kheish: CommandLine, words: tuple[str, ...], code: int
) -> None:
    assert kheish("questions", *words).exit_code == code
    assert _posts(daemon) == []


def test_cancel_ends_the_run_that_asked(daemon: RecordingDaemon, kheish: CommandLine) -> None:
    daemon.answers["POST /v1/runs/run-5/questions/r/cancel"] = (200, run("run-5", "cancelled"))
    assert kheish("questions", "cancel", "r", "--justification", "gone").exit_code == 0
    assert kheish("questions", "cancel", "r", "--run-id", "run-5", "--idempotency-key", "k").exit_code == 0
    assert [body for _, body in _posts(daemon)] == [{"justification": "gone"}, {}]
