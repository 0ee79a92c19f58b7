"""decide: what must happen next in a run. Pure: no clock, no files, no database."""

from __future__ import annotations

from kheish.core.jsonvalue import JsonObject
from kheish.core.messages import FinishReason, ToolChoice
from kheish.core.values import value_class
from kheish.engine.entries import Compacted, FollowedUp, Microcompacted, RunStatus, Snipped
from kheish.engine.state import CallState, RunState, final_text, overflowed, was_truncated

MAX_FOLLOW_UPS = 2
"""Extra turns for unmet completion requirements."""
MAX_TRUNCATIONS = 3
"""Continuations of a reply that hit the output ceiling."""
ESCALATED_OUTPUT_TOKENS = 64_000
MAX_OVERFLOWS = 2
"""Refusals of one model call as too large that are answered with a smaller window."""
MAX_RESUMES_WITHOUT_PROGRESS = 3
"""So often a run is resumed in vain; it is not resumed once more, for it may be what brings the daemon down."""


@value_class(frozen=True, kw_only=True, slots=True)
class CallModel:
    """Ask the model for the next message."""

    turn: int
    attempt: int


@value_class(frozen=True, kw_only=True, slots=True)
class AskPermission:
    """Decide every call of the last message."""

    calls: tuple[CallState, ...]


@value_class(frozen=True, kw_only=True, slots=True)
class AskHuman:
    """Turn a question call into a question."""

    call: CallState


@value_class(frozen=True, kw_only=True, slots=True)
class RunTools:
    """Run these calls: one, or a batch that may run side by side."""

    calls: tuple[CallState, ...]


@value_class(frozen=True, kw_only=True, slots=True)
class Settle:
    """Go on with these calls: for some the intent is durable and the outcome is not."""

    calls: tuple[CallState, ...]


@value_class(frozen=True, kw_only=True, slots=True)
class FollowUp:
    """Say something to the model and go on."""

    entry: FollowedUp


@value_class(frozen=True, kw_only=True, slots=True)
class Wait:
    """Nothing to do until a human acts, or until `until_ms` when that is set."""

    until_ms: int | None = None


@value_class(frozen=True, kw_only=True, slots=True)
class Finish:
    """The run is over."""

    status: RunStatus
    error: str | None = None
    output: str | None = None


@value_class(frozen=True, kw_only=True, slots=True)
class Compact:
    """Make the prompt smaller before the model is called: record these, then have the model summarise if it must."""

    entries: tuple[Microcompacted | Snipped | Compacted, ...] = ()
    summarise: bool = False


Step = CallModel | AskPermission | AskHuman | RunTools | Settle | FollowUp | Compact | Wait | Finish


def decide(run: RunState) -> Step:
    """Return the one next step of a live run that holds its session's slot."""
    if run.stop is not None:
        return Finish(status=run.stop.status, error=run.stop.error)
    if run.resumes > MAX_RESUMES_WITHOUT_PROGRESS:
        return Finish(status=RunStatus.FAILED, error="resume_limit_reached")
    if run.status.waiting or run.due_at_ms is not None:
        return Wait(until_ms=run.due_at_ms)
    if run.failed_attempts:
        return _after_failure(run)
    if any(call.finished is None for call in run.calls):
        return _next_calls(run)
    if run.replied is None or run.calls:
        return _call_model(run)
    return _boundary(run)


def _after_failure(run: RunState) -> Step:
    failure = run.last_failure
    assert failure is not None
    if failure.retry_at_ms is not None:
        return CallModel(turn=run.turn + 1, attempt=run.failed_attempts + 1)
    if overflowed(failure) and run.overflows <= MAX_OVERFLOWS:
        # Whoever calls the model makes the window smaller first.
        return CallModel(turn=run.turn + 1, attempt=run.failed_attempts + 1)
    return Finish(status=RunStatus.FAILED, error=failure.message)


def _next_calls(run: RunState) -> Step:
    open_calls = tuple(call for call in run.calls if call.finished is None)
    undecided = tuple(call for call in run.calls if call.decision is None)
    if undecided:
        return AskPermission(calls=undecided)
    beside = all(_may_run_beside_others(call) for call in run.calls)
    batch = open_calls if beside else open_calls[:1]
    if any(call.in_doubt for call in batch):
        return Settle(calls=batch)
    if beside:
        return RunTools(calls=batch)
    first = open_calls[0]
    if _asks_human(first) and not first.denied:
        return AskHuman(call=first)
    return RunTools(calls=(first,))


def _may_run_beside_others(call: CallState) -> bool:
    return call.denied or (call.decision is not None and call.decision.allows_parallel and not _asks_human(call))


def _asks_human(call: CallState) -> bool:
    return call.decision is not None and call.decision.asks_human


def _call_model(run: RunState) -> Step:
    ceiling = run.accepted.max_turns
    if ceiling and run.turn >= ceiling:
        return Finish(status=RunStatus.FAILED, error=f"run reached its ceiling of {ceiling} turns")
    return CallModel(turn=run.turn + 1, attempt=1)


def _boundary(run: RunState) -> Step:
    """The model answered without tool calls: is the run complete?"""
    assert run.replied is not None
    if run.replied.finish_reason is FinishReason.BLOCKED:
        return Finish(status=RunStatus.FAILED, error="the provider blocked the model's reply")
    if was_truncated(run):
        return _after_truncation(run)
    unmet = tuple(item for item in run.accepted.requirements if not _met(run, item))
    if not unmet:
        return Finish(status=RunStatus.COMPLETED, output=final_text(run))
    named = "; ".join(_describe(item) for item in unmet)
    if run.follow_ups >= MAX_FOLLOW_UPS:
        error = f"run ended without satisfying completion requirements: {named}"
        return Finish(status=RunStatus.FAILED, error=error)
    text = f"The task is not complete yet. Still required: {named}. Do it now with write_file or edit_file."
    return FollowUp(
        entry=FollowedUp(reason="completion_requirements", text=text, tool_choice=ToolChoice(type="required"))
    )


def _after_truncation(run: RunState) -> Step:
    if run.truncations >= MAX_TRUNCATIONS:
        return Finish(status=RunStatus.FAILED, error="model output exceeded max tokens after recovery")
    text = "Your reply was cut off by the output limit. Continue exactly where it stopped, without repeating anything."
    ceiling = max(ESCALATED_OUTPUT_TOKENS, run.generation.max_output_tokens or 0)
    entry = FollowedUp(reason="output_truncated", text=text, max_output_tokens=ceiling)
    return FollowUp(entry=entry)


def _met(run: RunState, requirement: JsonObject) -> bool:
    path = requirement.get("path")
    if path is None:
        return bool(run.files_modified)
    return _normal(str(path)) in {_normal(modified) for modified in run.files_modified}


def _normal(path: str) -> str:
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def _describe(requirement: JsonObject) -> str:
    path = requirement.get("path")
    return "a created or modified workspace file" if path is None else f"workspace file {path}"
