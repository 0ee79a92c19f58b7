"""The endpoints of approvals and questions, as calls, and how answers are put into their wire form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from kheish.sdk import types as t
from kheish.sdk.errors import InvalidArgument
from kheish.sdk.jsonvalue import JsonObject, JsonValue
from kheish.sdk.requests import PageCall, paged, present
from kheish.sdk.values import Answer, Resolution
from kheish.sdk.wire import Call, run_path, segment, session_path

Answers: TypeAlias = Mapping[str, str | Sequence[str] | Answer]
"""Question id to option ids, to a text, or to an Answer with both."""


def list_approvals(session_id: str | None) -> PageCall[t.PendingApprovalView]:
    return paged("/v1/approvals", t.PendingApprovalView.from_json, session_id=session_id)


def list_questions(session_id: str | None) -> PageCall[t.PendingQuestionView]:
    return paged("/v1/questions", t.PendingQuestionView.from_json, session_id=session_id)


def resolve_approvals(run_id: str, resolutions: Iterable[Resolution], key: str) -> Call[t.RunView]:
    return _decision(run_path(run_id, "approvals"), _batch(resolutions), key)


def resolve_session_approvals(session_id: str, resolutions: Iterable[Resolution], key: str) -> Call[t.RunView]:
    return _decision(session_path(session_id, "approval-runs"), _batch(resolutions), key)


def resolve_question(run_id: str, resolution: JsonObject, key: str) -> Call[t.RunView]:
    return _decision(run_path(run_id, "questions"), {"resolution": resolution}, key)


def cancel_question(run_id: str, request_id: str, justification: str | None, key: str) -> Call[t.RunView]:
    path = run_path(run_id, "questions", segment(request_id), "cancel")
    return _decision(path, present({"justification": justification}), key)


def answered(request_id: str, answers: Answers, justification: str | None) -> JsonObject:
    """UserQuestionResolution with answers."""
    listed: list[JsonValue] = [_answer(question_id, given) for question_id, given in answers.items()]
    return present({"request_id": request_id, "answers": listed, "justification": justification})


def declined(request_id: str, justification: str | None) -> JsonObject:
    """UserQuestionResolution that refuses to answer."""
    return present({"request_id": request_id, "declined": True, "justification": justification})


def decide_all(run: t.RunView, *, allow: bool, justification: str | None, reason: str | None) -> tuple[Resolution, ...]:
    """One decision for every request of the wave ``run`` shows.

    Raises:
        InvalidArgument: the run waits for no approval.
    """
    if not run.pending_approvals:
        raise InvalidArgument(f"{run.run_id} waits for no approval")
    return tuple(
        Resolution(request_id=request.id, allow=allow, justification=justification, reason=reason)
        for request in run.pending_approvals
    )


def by_request(run: t.RunView, answers: Answers) -> dict[str, Answers]:
    """The answers sorted by the pending request that asks their questions.

    Raises:
        InvalidArgument: the run waits for no question, or several requests wait and none asks one of these.
    """
    requests = run.pending_questions
    if not requests:
        raise InvalidArgument(f"{run.run_id} waits for no question")
    if len(requests) == 1:
        # The daemon names what is wrong with an unknown question better than this client could.
        return {requests[0].id: answers}
    owner = {question.id: request.id for request in requests for question in request.questions}
    unknown = [question_id for question_id in answers if question_id not in owner]
    if unknown:
        raise InvalidArgument(f"{run.run_id} does not ask {', '.join(unknown)}")
    sorted_answers: dict[str, dict[str, str | Sequence[str] | Answer]] = {}
    for question_id, given in answers.items():
        sorted_answers.setdefault(owner[question_id], {})[question_id] = given
    return dict(sorted_answers)


def _decision(path: str, body: JsonObject, key: str) -> Call[t.RunView]:
    read = t.RunView.from_json
    return Call(method="POST", path=path, read=read, body=body, idempotency_key=key, repeatable=True)


def _batch(resolutions: Iterable[Resolution]) -> JsonObject:
    return {"resolutions": [resolution.to_json() for resolution in resolutions]}


def _answer(question_id: str, given: str | Sequence[str] | Answer) -> JsonObject:
    if isinstance(given, str):
        return {"question_id": question_id, "freeform_answer": given}
    if isinstance(given, Answer):
        fields: JsonObject = {"question_id": question_id, "freeform_answer": given.text}
        return present({**fields, "selected_option_ids": list(given.option_ids) or None})
    return {"question_id": question_id, "selected_option_ids": list(given)}
