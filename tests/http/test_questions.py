"""Structured questions over HTTP (approvals-and-questions cases 12 to 16)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.http.house import DEADLINE_S, House, opened

pytestmark = pytest.mark.anyio

DB = {"question_id": "db", "selected_option_ids": ["pg"]}
PARTS = {"question_id": "parts", "selected_option_ids": ["api", "cli"], "freeform_answer": "and the docs"}


async def asked(house: House, text: str = "question") -> str:
    """Submit a run and return the id of the question it waits for."""
    await house.session()
    await house.submit(text)
    await house.settled()
    view = await house.run("run-1")
    assert view["status"] == "waiting_for_user_question"
    request_id: str = view["pending_question_ids"][0]
    return request_id


def answers(request_id: str, *given: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"resolution": {"request_id": request_id, "answers": list(given), **fields}}


async def test_a_question_is_listed_with_its_run(house: House) -> None:
    request_id = await asked(house)
    [row] = (await house.get("/v1/questions")).json()

    assert (row["session_id"], row["run_id"], row["run_kind"]) == ("s", "run-1", "input")
    assert row["request"]["id"] == request_id
    assert [question["id"] for question in row["request"]["questions"]] == ["db", "parts"]
    assert (await house.get("/v1/sessions/s/questions")).json() == [row]
    snapshot = (await house.get("/v1/sessions/s")).json()["snapshot"]
    assert snapshot["agent"]["status"] == "waiting_for_user_input"
    assert snapshot["pending_questions"] == [row["request"]]


BAD: list[tuple[str, list[dict[str, Any]], dict[str, Any]]] = [
    ("question_option_not_found", [{**DB, "selected_option_ids": ["oracle"]}, PARTS], {}),
    ("question_answer_missing", [DB], {}),
    ("question_answer_missing", [], {}),
    ("question_duplicate_answer", [DB, DB, PARTS], {}),
    ("question_duplicate_option", [DB, {**PARTS, "selected_option_ids": ["api", "api"]}], {}),
    ("question_declined_with_answers", [DB, PARTS], {"declined": True}),
    ("question_single_select_violation", [{**DB, "selected_option_ids": ["pg", "lite"]}, PARTS], {}),
    ("question_answer_empty", [{"question_id": "db"}, PARTS], {}),
    ("question_answer_empty", [{"question_id": "db", "freeform_answer": "  "}, PARTS], {}),
    ("question_unknown_answer", [DB, PARTS, {"question_id": "colour", "freeform_answer": "red"}], {}),
]


@pytest.mark.parametrize(("code", "given", "fields"), BAD)
async def test_a_bad_answer_is_named_and_the_run_keeps_waiting(
    house: House, code: str, given: list[dict[str, Any]], fields: dict[str, Any]
) -> None:
    request_id = await asked(house)
    for path in ("/v1/runs/run-1/questions", "/v1/sessions/s/questions"):
        refused = await house.post(path, answers(request_id, *given, **fields))
        assert (refused.status_code, refused.json()["domain"], refused.json()["code"]) == (400, "questions", code)
    assert (await house.run("run-1"))["pending_question_ids"] == [request_id]


async def test_an_answer_to_another_request_is_a_mismatch(house: House) -> None:
    await asked(house)
    refused = await house.post("/v1/runs/run-1/questions", answers("other", DB, PARTS))

    assert (refused.status_code, refused.json()["code"]) == (400, "question_request_mismatch")


async def test_a_good_answer_becomes_the_result_of_the_call(house: House) -> None:
    request_id = await asked(house)
    answer = await house.post("/v1/runs/run-1/questions", answers(request_id, DB, PARTS, justification="tested"))
    await house.settled()
    journal = (await house.get("/v1/sessions/s/events")).json()["session"]["journal"]
    [result] = [entry["event"]["result"] for entry in journal if entry["event"]["type"] == "tool_call_finished"]

    assert (answer.status_code, answer.json()["kind"]) == (202, "user_question_resume")
    assert answer.json()["request"]["question_count"] == 1
    assert result["output"] == {
        "request_id": request_id,
        "declined": False,
        "justification": "tested",
        "answers": [
            {
                "question_id": "db",
                "question": "Which database?",
                "selected_option_ids": ["pg"],
                "selected_labels": ["PostgreSQL"],
            },
            {
                "question_id": "parts",
                "question": "Which parts?",
                "selected_option_ids": ["api", "cli"],
                "selected_labels": ["API", "CLI"],
                "freeform_answer": "and the docs",
            },
        ],
    }
    assert (await house.run("run-1"))["status"] == "completed"
    assert (await house.get("/v1/questions")).json() == []
    assert await house.event_types("run-1") == [
        "accepted",
        "queued",
        "started",
        "waiting_for_user_question",
        "user_question_resolved",
        "output",
        "completed",
    ]


async def test_a_decline_is_told_to_the_model_and_the_run_goes_on(house: House) -> None:
    request_id = await asked(house)
    await house.post("/v1/runs/run-1/questions", answers(request_id, declined=True, justification="no time"))
    await house.settled()
    done = await house.run("run-1")

    assert done["status"] == "completed"
    assert '"declined":true' in done["outputs"][0]["content"]
    assert "no time" in done["outputs"][0]["content"]


async def test_a_session_answers_inline(house: House) -> None:
    request_id = await asked(house)
    done = await house.post("/v1/sessions/s/questions", answers(request_id, DB, PARTS))

    assert done.status_code == 200
    assert done.json()["snapshot"]["agent"]["status"] == "completed"


async def test_an_idle_session_has_nothing_to_answer(house: House) -> None:
    await house.session()
    refused = await house.post("/v1/sessions/s/questions", answers("q", declined=True))

    assert (refused.status_code, refused.json()["code"]) == (409, "run_state_conflict")


async def test_an_answered_run_takes_no_second_answer_without_its_key(house: House) -> None:
    request_id = await asked(house)
    body = answers(request_id, DB, PARTS)
    first = await house.post("/v1/runs/run-1/questions", body, key="k")
    await house.settled()
    again = await house.post("/v1/runs/run-1/questions", body, key="k")
    other = await house.post("/v1/runs/run-1/questions", answers(request_id, declined=True), key="k")
    without = await house.post("/v1/runs/run-1/questions", body)

    assert (first.status_code, again.status_code, again.json()["status"]) == (202, 202, "completed")
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")
    assert (without.status_code, without.json()["code"]) == (409, "question_state_conflict")


async def test_cancelling_the_right_request_cancels_the_run(house: House) -> None:
    request_id = await asked(house)
    wrong = await house.post("/v1/runs/run-1/questions/other/cancel")
    still = await house.run("run-1")
    right = await house.post(f"/v1/runs/run-1/questions/{request_id}/cancel", {"justification": "enough"}, key="k")
    again = await house.post(f"/v1/runs/run-1/questions/{request_id}/cancel", {"justification": "enough"}, key="k")
    late = await house.post(f"/v1/runs/run-1/questions/{request_id}/cancel")

    assert (wrong.status_code, wrong.json()["code"]) == (400, "question_request_mismatch")
    assert still["status"] == "waiting_for_user_question"
    assert (right.status_code, right.json()["status"]) == (200, "cancelled")
    assert again.json() == right.json()
    assert (late.status_code, late.json()["code"]) == (409, "question_state_conflict")


async def test_an_expired_question_cancels_the_run_and_takes_no_late_answer(house: House) -> None:
    await house.session()
    await house.submit("quick ask")
    async with asyncio.timeout(DEADLINE_S):
        await house.daemon.engine.stopped("s", "run-1")
    run = await house.run("run-1")
    events = (await house.get("/v1/runs/run-1/events")).json()
    [request] = next(entry["event"]["requests"] for entry in events if "requests" in entry["event"])
    late = await house.post("/v1/runs/run-1/questions", answers(request["id"], DB))

    assert run["status"] == "cancelled"
    assert request["id"] in run["error"]
    assert (late.status_code, late.json()["code"]) == (409, "question_expired")


async def test_a_question_that_expired_while_the_daemon_was_down_is_over_at_boot(tmp_path: Path) -> None:
    async with opened(tmp_path) as before:
        await before.session()
        await before.submit("quick ask")
        await before.settled()
    async with opened(tmp_path) as after:
        async with asyncio.timeout(DEADLINE_S):
            await after.daemon.engine.stopped("s", "run-1")
        assert (await after.run("run-1"))["status"] == "cancelled"


async def test_a_waiting_question_survives_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path) as before:
        request_id = await asked(before)
        pending = (await before.run("run-1"))["pending_questions"]
    async with opened(tmp_path) as after:
        assert (await after.run("run-1"))["pending_questions"] == pending
        await after.post("/v1/runs/run-1/questions", answers(request_id, DB, PARTS))
        await after.settled()
        assert (await after.run("run-1"))["status"] == "completed"
