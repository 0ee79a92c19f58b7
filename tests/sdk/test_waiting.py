"""Waiting for a run: until it is over, until it needs a human, and when to give up."""

from __future__ import annotations

import pytest

from kheish import (
    Answer,
    ConnectionFailed,
    InvalidArgument,
    NotFound,
    RunFailed,
    WaitTimeout,
)
from tests.sdk.conftest import ClientFactory, ServerFactory
from tests.sdk.wire_server import Asked, Behaviour, Breaks, Says, Silence, output_json, problem, run_json

pytestmark = pytest.mark.anyio

APPROVAL = {
    "id": "a1",
    "tool_call_id": "c1",
    "tool_name": "bash",
    "input": {"command": "ls"},
    "scope": "user",
    "reason": "asks",
}
QUESTION = {
    "id": "q1",
    "tool_call_id": "c1",
    "created_at_ms": 1,
    "questions": [
        {
            "id": "db",
            "header": "Database",
            "question": "Which?",
            "options": [{"id": "pg", "label": "PostgreSQL"}, {"id": "lite", "label": "SQLite", "preview": "x"}],
            "multi_select": False,
        },
        {"id": "why", "header": "Why", "question": "Why?", "options": []},
    ],
}


async def test_wait_goes_on_through_waiting_states_until_the_run_is_over(
    serve: ServerFactory, connect: ClientFactory
) -> None:
    states = ["queued", "running", "waiting_for_approval", "completed"]
    outputs = [output_json("first"), output_json("last")]
    server = serve(lambda asked: Says(body=run_json(states[asked.number], outputs=outputs)))
    result = await connect(server).runs.handle("run-1").wait(timeout=10)
    assert (result.status, result.output_text, result.error, result.run_id) == ("completed", "last", None, "run-1")
    assert [output.content for output in result.outputs] == ["first", "last"]
    assert len(server.asked) == 4


@pytest.mark.parametrize("status", ["failed", "interrupted", "cancelled"])
async def test_a_run_that_did_not_complete_raises_only_when_asked(
    serve: ServerFactory, connect: ClientFactory, status: str
) -> None:
    run = connect(serve(lambda asked: Says(body=run_json(status, error="boom")))).runs.handle("run-1")
    result = await run.wait()
    assert (result.status, result.error, result.output_text) == (status, "boom", "")
    with pytest.raises(RunFailed) as caught:
        await run.wait(raise_on_failure=True)
    assert (caught.value.status, caught.value.error, caught.value.run.run_id) == (status, "boom", "run-1")


@pytest.mark.parametrize("behaviour", [Says(body=run_json()), Silence(), Breaks(), problem(503, "daemon_draining")])
async def test_a_wait_ends_in_time_whatever_the_daemon_does(
    serve: ServerFactory, connect: ClientFactory, behaviour: Behaviour
) -> None:
    run = connect(serve(lambda asked: behaviour)).runs.handle("run-1")
    with pytest.raises(WaitTimeout) as caught:
        await run.wait(timeout=1)
    assert (caught.value.run_id, caught.value.seconds) == ("run-1", 1)


async def test_a_wait_of_no_time_looks_once(serve: ServerFactory, connect: ClientFactory) -> None:
    client = connect(serve(lambda asked: Says(body=run_json("completed" if asked.number else "running"))))
    with pytest.raises(WaitTimeout):
        await client.runs.handle("run-1").wait(timeout=0)
    assert (await client.runs.handle("run-1").wait(timeout=0)).status == "completed"


async def test_a_wait_bears_a_daemon_that_restarts(serve: ServerFactory, connect: ClientFactory) -> None:
    def respond(asked: Asked) -> Behaviour:
        troubles: list[Behaviour] = [Says(body=run_json()), Breaks(), problem(503, "daemon_draining"), Breaks()]
        return troubles[asked.number] if asked.number < 4 else Says(body=run_json("completed"))

    client = connect(serve(respond), max_retries=0)
    assert (await client.runs.handle("run-1").wait()).status == "completed"


async def test_without_a_timeout_a_wait_gives_up_after_the_grace(serve: ServerFactory, connect: ClientFactory) -> None:
    client = connect(serve(lambda asked: Breaks()), grace=0.3)
    with pytest.raises(ConnectionFailed):
        await client.runs.handle("run-1").wait()


async def test_waiting_for_a_run_nobody_knows_ends_at_once(serve: ServerFactory, connect: ClientFactory) -> None:
    server = serve(lambda asked: problem(404, "run_not_found", domain="runs"))
    with pytest.raises(NotFound):
        await connect(server).runs.handle("run-9").wait(timeout=10)
    assert len(server.asked) == 1


async def test_a_run_that_waits_for_approvals_is_approved_as_it_was_seen(
    serve: ServerFactory, connect: ClientFactory
) -> None:
    waiting = run_json("waiting_for_approval", pending_approvals=[APPROVAL, {**APPROVAL, "id": "a2"}])

    def respond(asked: Asked) -> Behaviour:
        return Says(body=waiting) if asked.method == "GET" else Says(status=202, body=run_json())

    server = serve(respond)
    blocked = await connect(server).runs.handle("run-1").wait_until_blocked(timeout=5)
    assert (blocked.requires_approval, blocked.requires_question) == (True, False)
    seen = (await blocked.get()).pending_approvals[0]
    assert (seen.id, seen.tool_name, seen.input, seen.reason) == ("a1", "bash", {"command": "ls"}, "asks")
    await blocked.approve_all("looked at it")
    await blocked.deny_all("no", justification="late")
    bodies = [asked.body for asked in server.asked if asked.method == "POST"]
    assert bodies == [
        {
            "resolutions": [
                {"request_id": "a1", "behavior": "allow", "justification": "looked at it"},
                {"request_id": "a2", "behavior": "allow", "justification": "looked at it"},
            ]
        },
        {
            "resolutions": [
                {"request_id": "a1", "behavior": "deny", "justification": "late", "reason": "no"},
                {"request_id": "a2", "behavior": "deny", "justification": "late", "reason": "no"},
            ]
        },
    ]


async def test_questions_are_answered_by_option_or_text_or_both(serve: ServerFactory, connect: ClientFactory) -> None:
    waiting = run_json("waiting_for_user_question", pending_questions=[QUESTION])

    def respond(asked: Asked) -> Behaviour:
        return Says(body=waiting) if asked.method == "GET" else Says(status=202, body=run_json())

    server = serve(respond)
    blocked = await connect(server).runs.handle("run-1").wait_until_blocked(timeout=5)
    assert blocked.requires_question
    (request,) = blocked.run.pending_questions
    assert [(question.id, [option.id for option in question.options]) for question in request.questions] == [
        ("db", ["pg", "lite"]),
        ("why", []),
    ]
    await blocked.answer({"db": ["pg"], "why": "fast"})
    await blocked.answer({"db": Answer(option_ids=["lite"], text="small"), "why": Answer(text="x")}, "j")
    await blocked.decline("busy")
    assert [asked.body["resolution"] for asked in server.asked if asked.method == "POST"] == [
        {
            "request_id": "q1",
            "answers": [
                {"question_id": "db", "selected_option_ids": ["pg"]},
                {"question_id": "why", "freeform_answer": "fast"},
            ],
        },
        {
            "request_id": "q1",
            "answers": [
                {"question_id": "db", "freeform_answer": "small", "selected_option_ids": ["lite"]},
                {"question_id": "why", "freeform_answer": "x"},
            ],
            "justification": "j",
        },
        {"request_id": "q1", "declined": True, "justification": "busy"},
    ]


async def test_answers_to_several_requests_go_where_their_questions_are(
    serve: ServerFactory, connect: ClientFactory
) -> None:
    other = {**QUESTION, "id": "q2", "questions": [{"id": "n", "header": "n", "question": "n?", "options": []}]}
    waiting = run_json("waiting_for_user_question", pending_questions=[QUESTION, other])

    def respond(asked: Asked) -> Behaviour:
        return Says(body=waiting) if asked.method == "GET" else Says(status=202, body=run_json())

    server = serve(respond)
    blocked = await connect(server).runs.handle("run-1").wait_until_blocked(timeout=5)
    with pytest.raises(InvalidArgument):
        await blocked.answer({"nobody": "x"})
    await blocked.answer({"n": "1", "db": ["pg"]})
    sent = [asked.body["resolution"] for asked in server.asked if asked.method == "POST"]
    assert [resolution["request_id"] for resolution in sent] == ["q2", "q1"]


async def test_deciding_on_a_run_that_waits_for_nothing_is_refused_here(
    serve: ServerFactory, connect: ClientFactory
) -> None:
    blocked = await connect(serve(lambda asked: Says(body=run_json("completed")))).runs.handle("r").wait_until_blocked()
    assert not blocked.requires_approval
    assert not blocked.requires_question
    for decide in (blocked.approve_all, blocked.deny_all):
        with pytest.raises(InvalidArgument):
            await decide()
    with pytest.raises(InvalidArgument):
        await blocked.answer({"q": "x"})
