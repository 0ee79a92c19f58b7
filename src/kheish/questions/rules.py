"""What a question request accepts as its answer. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.core.problems import Problem
from kheish.engine.entries import QuestionResolved, RunStatus, StopRequested, ToolFinished
from kheish.engine.ports import Proposal
from kheish.engine.state import CallState, RunState
from kheish.questions.models import Answer, UserQuestionResolution


class RequestMismatch(Problem):
    """No such question request is pending on this run."""

    domain, code, status = "questions", "question_request_mismatch", 400


class OptionNotFound(Problem):
    """An answer names an option its question does not have."""

    domain, code, status = "questions", "question_option_not_found", 400


class AnswerMissing(Problem):
    """Answer every question of the request, or decline it."""

    domain, code, status = "questions", "question_answer_missing", 400


class DuplicateAnswer(Problem):
    """A question is answered twice."""

    domain, code, status = "questions", "question_duplicate_answer", 400


class DuplicateOption(Problem):
    """An answer names an option twice."""

    domain, code, status = "questions", "question_duplicate_option", 400


class DeclinedWithAnswers(Problem):
    """A declined request takes no answers."""

    domain, code, status = "questions", "question_declined_with_answers", 400


class SingleSelectViolation(Problem):
    """This question takes one option."""

    domain, code, status = "questions", "question_single_select_violation", 400


class AnswerEmpty(Problem):
    """An answer needs an option or a text."""

    domain, code, status = "questions", "question_answer_empty", 400


class UnknownAnswer(Problem):
    """An answer names a question that was not asked."""

    domain, code, status = "questions", "question_unknown_answer", 400


class QuestionStateConflict(Problem):
    """The run does not wait for an answer."""

    domain, code, status = "questions", "question_state_conflict", 409


class QuestionExpired(Problem):
    """The question expired before this answer."""

    domain, code, status = "questions", "question_expired", 409


def answer(run: RunState | None, resolution: UserQuestionResolution, now_ms: int) -> Sequence[Proposal]:
    """The entries that resume ``run`` with the answers, or with the decline, as the call's result.

    Raises:
        Problem: one of this module; the run keeps waiting.
    """
    call = pending_call(run, resolution.request_id, now_ms)
    assert run is not None
    assert call.question is not None
    check(call.question, resolution)
    resolved = cast("JsonObject", resolution.model_dump(mode="json", exclude_none=True))
    call_id = call.call.call_id
    finished = ToolFinished(call_id=call_id, name=call.call.name, output=_result(call.question, resolution))
    return (
        Proposal(entry=QuestionResolved(call_id=call_id, resolution=resolved), run_id=run.run_id),
        Proposal(entry=finished, run_id=run.run_id),
    )


def cancel(run: RunState | None, request_id: str, now_ms: int) -> Sequence[Proposal]:
    """The entry that ends ``run`` because nobody will answer.

    Raises:
        QuestionStateConflict, QuestionExpired, RequestMismatch: nothing changes.
    """
    pending_call(run, request_id, now_ms)
    assert run is not None
    return (Proposal(entry=StopRequested(status=RunStatus.CANCELLED), run_id=run.run_id),)


def pending_call(run: RunState | None, request_id: str, now_ms: int) -> CallState:
    """The call that waits for this request."""
    if run is None or run.status is not RunStatus.WAITING_FOR_USER_QUESTION or run.stop is not None:
        raise QuestionStateConflict
    for call in run.calls:
        if call.question is not None and call.finished is None and call.question["id"] == request_id:
            expires = call.question.get("expires_at_ms")
            if isinstance(expires, int) and expires <= now_ms:
                raise QuestionExpired(f"The question request {request_id!r} expired at {expires}.")
            return call
    raise RequestMismatch(f"No question request {request_id!r} is pending on {run.run_id}.")


def check(request: JsonObject, resolution: UserQuestionResolution) -> None:
    """Hold an answer against its request."""
    if resolution.declined:
        if resolution.answers:
            raise DeclinedWithAnswers
        return
    asked = _questions(request)
    answered = [one.question_id for one in resolution.answers]
    if len(set(answered)) != len(answered):
        raise DuplicateAnswer
    for one in resolution.answers:
        if one.question_id not in asked:
            raise UnknownAnswer(f"The request has no question {one.question_id!r}.")
        _check_answer(asked[one.question_id], one)
    missing = [question_id for question_id in asked if question_id not in answered]
    if missing:
        raise AnswerMissing(f"No answer to: {', '.join(missing)}.")


def _check_answer(question: Mapping[str, JsonValue], one: Answer) -> None:
    chosen = one.selected_option_ids
    if len(set(chosen)) != len(chosen):
        raise DuplicateOption(f"The answer to {one.question_id!r} names an option twice.")
    known = _labels(question)
    for option_id in chosen:
        if option_id not in known:
            raise OptionNotFound(f"The question {one.question_id!r} has no option {option_id!r}.")
    if len(chosen) > 1 and not question.get("multi_select"):
        raise SingleSelectViolation(f"The question {one.question_id!r} takes one option.")
    if not chosen and not (one.freeform_answer or "").strip():
        raise AnswerEmpty(f"The answer to {one.question_id!r} has neither an option nor a text.")


def _result(request: JsonObject, resolution: UserQuestionResolution) -> JsonObject:
    """What the model reads as the result of its question."""
    result: JsonObject = {"request_id": resolution.request_id, "declined": resolution.declined}
    if resolution.justification is not None:
        result["justification"] = resolution.justification
    if resolution.declined:
        result["message"] = "The user declined to answer. Go on without this answer, or stop."
        return result
    asked = _questions(request)
    result["answers"] = [_answer_wire(asked[one.question_id], one) for one in resolution.answers]
    return result


def _answer_wire(question: Mapping[str, JsonValue], one: Answer) -> JsonObject:
    labels = _labels(question)
    wire: JsonObject = {"question_id": one.question_id, "question": question.get("question")}
    wire["selected_option_ids"] = list(one.selected_option_ids)
    wire["selected_labels"] = [labels[option_id] for option_id in one.selected_option_ids]
    if one.freeform_answer is not None:
        wire["freeform_answer"] = one.freeform_answer
    return wire


def _questions(request: JsonObject) -> dict[str, JsonObject]:
    questions = cast("list[JsonObject]", request["questions"])
    return {str(question["id"]): question for question in questions}


def _labels(question: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    options = cast("list[JsonObject]", question.get("options") or [])
    return {str(option["id"]): option.get("label") for option in options}
