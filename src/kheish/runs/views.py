"""What clients see of a run: projections of its state and of its journal entries. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from kheish.core.jsonvalue import JsonObject, JsonValue, encode, without_empty
from kheish.core.messages import Usage
from kheish.engine import entries as e
from kheish.engine.boundaries import boundary
from kheish.engine.entries import OnInDoubt, Recorded, Ruling, RunStatus
from kheish.engine.state import RunState, SessionState

_PREVIEW_CHARS = 200
_TRACE_PREVIEW_CHARS = 400
_NO_USAGE = Usage()


def text_preview(text: str) -> str:
    """What lists show of an input."""
    return text if len(text) <= _PREVIEW_CHARS else text[: _PREVIEW_CHARS - 1] + "…"


def request_summary(run: RunState) -> JsonObject:
    """RunRequestSummary: who asked, and the route and model really used."""
    accepted, route = run.accepted, run.accepted.route
    return without_empty(
        {
            **accepted.summary,
            "provider": route.route_id,
            "model": route.model,
            "approval_count": run.approvals_asked,
            "question_count": run.questions_asked,
            "on_restart": accepted.on_restart,
            "on_in_doubt": None if accepted.on_in_doubt is OnInDoubt.REPORT else accepted.on_in_doubt,
        }
    )


def input_metadata(accepted: e.InputAccepted) -> JsonValue:
    """The caller's metadata, without what the daemon merged into it."""
    metadata = accepted.envelope.get("metadata")
    if not accepted.requirements or not isinstance(metadata, dict):
        return metadata
    own = {key: value for key, value in metadata.items() if key != "completion_requirements"}
    wrapped = own.get("user_metadata")
    return wrapped if set(own) == {"user_metadata"} and not isinstance(wrapped, dict) else own or None


def usage(run: RunState) -> JsonObject | None:
    """Tokens of all model calls so far; None before the first reply."""
    if run.turn == 0 and run.usage == _NO_USAGE:
        return None
    found: JsonObject = {"input_tokens": run.usage.input_tokens, "output_tokens": run.usage.output_tokens}
    if run.usage.cached_input_tokens:
        found["cached_input_tokens"] = run.usage.cached_input_tokens
    found["cost_usd"] = run.usage.cost_usd
    return found


def queued_position(run: RunState, session: SessionState) -> int | None:
    """1-based place in the session's queue; None unless queued."""
    if run.status is not RunStatus.QUEUED:
        return None
    for position, queued in enumerate(session.queue, start=1):
        if queued.run_id == run.run_id:
            return position
    return None


def run_view(run: RunState, position: int | None) -> JsonObject:
    """RunView without its outputs."""
    view: JsonObject = {
        "run_id": run.run_id,
        "session_id": run.session_id,
        "agent_id": run.agent_id,
        "kind": run.kind,
        "status": run.status.value,
        "submitted_at_ms": run.submitted_at_ms,
        "updated_at_ms": run.updated_at_ms,
    }
    if run.started_at_ms is not None:
        view["started_at_ms"] = run.started_at_ms
    if run.finished_at_ms is not None:
        view["finished_at_ms"] = run.finished_at_ms
    if position is not None:
        view["queued_position"] = position
    view["request"] = request_summary(run)
    if (metadata := input_metadata(run.accepted)) is not None:
        view["input_metadata"] = metadata
    if run.calls:
        view.update(_pending("approval", run.pending_approvals))
        view.update(_pending("question", run.pending_questions))
    if (used := usage(run)) is not None:
        view["usage"] = used
    if run.error is not None:
        view["error"] = run.error
    return view


def _pending(kind: str, requests: Sequence[JsonObject]) -> JsonObject:
    if not requests:
        return {}
    return {f"pending_{kind}_ids": [request["id"] for request in requests], f"pending_{kind}s": list(requests)}


def output_record(session_id: str, run_id: str, entry: e.Entry) -> Iterator[tuple[str, JsonObject]]:
    """OutputRecords an entry brings, each with the key it is stored once under: its call id, or "" for the answer."""
    if isinstance(entry, e.RunEnded) and entry.status is RunStatus.COMPLETED and entry.output:
        yield "", _output(session_id, run_id, entry.output, "assistant_text", {})
    if isinstance(entry, e.ToolFinished):
        for effect in entry.effects:
            if effect["type"] == "output":
                extra = without_empty({"parts": effect.get("parts"), "artifacts": effect.get("artifacts")})
                yield entry.call_id, _output(session_id, run_id, str(effect["content"]), "emit_output", extra)


def _output(session_id: str, run_id: str, content: str, source_kind: str, extra: JsonObject) -> JsonObject:
    record: JsonObject = {"session_id": session_id, "run_id": run_id, "content": content}
    return {**record, **extra, "source_kind": source_kind, "address": None}


def run_events(journal: Iterable[Recorded], *, agent_id: str, accepted_position: int) -> list[JsonObject]:
    """RunEventEntry list of one run, from its journal entries."""
    found: list[JsonObject] = []
    newest_ms = 0
    for recorded in journal:
        newest_ms = max(newest_ms, recorded.at_ms)
        for event in _events(recorded, accepted_position):
            found.append(
                {
                    "timestamp_ms": newest_ms,
                    "run_id": recorded.run_id,
                    "session_id": recorded.session_id,
                    "agent_id": agent_id,
                    "event": event,
                }
            )
    return found


def _events(recorded: Recorded, accepted_position: int) -> Iterator[JsonObject]:
    entry = recorded.entry
    match entry:
        case e.InputAccepted():
            yield {"type": "accepted"}
            yield {"type": "queued", "position": accepted_position}
        case e.RunStarted():
            yield {"type": "started"}
        case e.CallsDecided(decisions=decisions):
            asked = (made.approval for made in decisions if made.ruling is Ruling.ASK)
            yield from _waiting_for_approval([request for request in asked if request is not None])
        case e.InDoubtAsked(requests=requests):
            yield from _waiting_for_approval(requests)
        case e.ApprovalsResolved(resolutions=resolutions):
            yield {"type": "approval_resolved", "resolutions": list(resolutions)}
        case e.QuestionRequested(request=request):
            yield {"type": "waiting_for_user_question", "request_ids": [request["id"]], "requests": [request]}
        case e.QuestionResolved(resolution=resolution):
            yield {"type": "user_question_resolved", "resolution": resolution}
        case e.Resumed():
            yield {
                "type": "resumed",
                "reason": entry.reason,
                "turn": entry.turn,
                "reused_call_ids": list(entry.reused_call_ids),
                "in_doubt_call_ids": list(entry.in_doubt_call_ids),
            }
        case e.ToolFinished() | e.RunEnded():
            for _, record in output_record(recorded.session_id, recorded.run_id or "", entry):
                yield {"type": "output", "output": record}
            if isinstance(entry, e.RunEnded):
                yield _ending(entry)
        case _:
            return


def _waiting_for_approval(asked: Sequence[JsonObject]) -> Iterator[JsonObject]:
    if asked:
        yield {
            "type": "waiting_for_approval",
            "request_ids": [request["id"] for request in asked],
            "requests": list(asked),
        }


def _ending(entry: e.RunEnded) -> JsonObject:
    event: JsonObject = {"type": entry.status.value}
    if entry.error is not None or entry.status is RunStatus.FAILED:
        event["error"] = entry.error or "the run failed"
    return event


def traces(recorded: Recorded, agent_id: str) -> Iterator[JsonObject]:
    """The `trace` objects an entry is worth on the event feed."""
    for kind, fields in _trace_kinds(recorded.entry):
        yield {
            "session_id": recorded.session_id,
            "agent_id": agent_id,
            "run_id": recorded.run_id,
            "timestamp": recorded.at_ms,
            "kind": kind,
            **fields,
        }


def _trace_kinds(entry: e.Entry) -> Iterator[tuple[str, JsonObject]]:
    match entry:
        case e.ModelReplied():
            yield (
                "model_finished",
                {
                    "turn": entry.turn,
                    "finish_reason": entry.finish_reason.value,
                    "input_tokens": entry.usage.input_tokens,
                    "output_tokens": entry.usage.output_tokens,
                },
            )
        case e.ModelFailed():
            failure: JsonObject = {"turn": entry.turn, "attempt": entry.attempt, "error": entry.message}
            yield "model_finished", {**failure, "error_kind": entry.kind, "retry_at_ms": entry.retry_at_ms}
        case e.CallsDecided(decisions=decisions):
            for made in decisions:
                audit = made.audit or {}
                fields = {"call_id": made.call_id, "tool_name": audit.get("tool_name"), "decision": made.ruling.value}
                yield "permission_decided", without_empty(fields)
        case e.InDoubtAsked(requests=requests):
            for request in requests:
                fields = {"call_id": request["tool_call_id"], "tool_name": request["tool_name"], "decision": "ask"}
                yield "permission_decided", {**fields, "in_doubt": True}
        case e.ToolIntended():
            preview = encode(entry.input)[:_TRACE_PREVIEW_CHARS].decode(errors="ignore")
            yield "tool_started", {"call_id": entry.call_id, "tool_name": entry.name, "input_preview": preview}
        case e.ToolFinished():
            yield (
                "tool_finished",
                {"call_id": entry.call_id, "tool_name": entry.name, "is_error": entry.is_error},
            )
        case e.Microcompacted() | e.Snipped() | e.Compacted():
            yield "compaction", {"boundary": boundary(entry)}
        case e.Resumed():
            yield "recovery", {"reason": entry.reason, "turn": entry.turn}
        case _:
            return
