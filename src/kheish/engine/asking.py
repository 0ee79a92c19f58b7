"""What humans are asked: requests for approvals and questions, as they are recorded and shown. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from kheish.core.jsonvalue import JsonObject
from kheish.core.messages import ToolCallPart
from kheish.engine.entries import InDoubtAsked, QuestionRequested, ToolFinished
from kheish.engine.state import CallState, RunState
from kheish.policy.protocol import Verdict
from kheish.tools.protocol import QuestionAsked, ToolCall, ToolOutcome


def approval(call: ToolCall, verdict: Verdict, asked: int) -> JsonObject:
    """The ApprovalRequest of a call that a rule wants a human to allow; ``asked`` requests came before it."""
    return {
        "id": _approval_id(call.name, call.id, asked),
        "tool_call_id": call.id,
        "tool_name": call.name,
        "input": call.input,
        "scope": verdict.scope,
        "reason": verdict.reason or f"{call.name} needs an approval",
    }


def in_doubt(run: RunState, calls: Sequence[CallState]) -> InDoubtAsked:
    """Ask whether these calls, which may have taken effect, shall run again."""
    requests = (_doubtful(state, run.approvals_asked + at) for at, state in enumerate(calls))
    return InDoubtAsked(requests=tuple(requests))


def question_or_fault(
    call: ToolCallPart, asked: QuestionAsked | ToolOutcome, *, now_ms: int, wall_ms: int
) -> QuestionRequested | ToolFinished:
    """A UserQuestionRequest, or the result that says what is wrong with the question.

    ``now_ms`` is the session's time, ``wall_ms`` what the machine's clock says.
    """
    call_id = call.call_id
    if not isinstance(asked, QuestionAsked):
        return ToolFinished(call_id=call_id, name=call.name, output=asked.output, is_error=asked.is_error)
    request: JsonObject = {
        "id": f"question-request-{call_id}",
        "tool_call_id": call_id,
        "questions": list(asked.questions),
        "created_at_ms": now_ms,
    }
    if asked.expires_after_ms is not None:
        request["expires_at_ms"] = now_ms + asked.expires_after_ms
    elif asked.expires_at_ms is not None:
        # A session whose clock was set back is ahead of the wall: the deadline is as far away as the wall says.
        request["expires_at_ms"] = asked.expires_at_ms + max(0, now_ms - wall_ms)
    return QuestionRequested(call_id=call_id, request=request)


def _doubtful(state: CallState, asked: int) -> JsonObject:
    part = state.call
    return {
        "id": _approval_id(part.name, part.call_id, asked),
        "tool_call_id": part.call_id,
        "tool_name": part.name,
        "input": state.input,
        "scope": "recovery",
        "reason": (
            f"the daemon restarted while {part.name} ran: it may or may not have taken effect; allow runs it again"
        ),
        "in_doubt": True,
    }


def _approval_id(name: str, call_id: str, asked: int) -> str:
    return f"approval-{name}-{asked + 1}-{hashlib.sha256(call_id.encode()).hexdigest()[:8]}"
