"""What clients see of a session. Pure."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence

import orjson

from kheish.core.jsonvalue import JsonObject, JsonValue, without_empty
from kheish.core.messages import Part, TextPart, ToolCallPart
from kheish.engine import entries as e
from kheish.engine.boundaries import boundary
from kheish.engine.entries import Recorded
from kheish.sessions.checkpoints import checkpoints

POLICY_COLUMNS = ("route_policy", "capability_scope", "credential_scope", "reply_targets")
_EMPTY = (None, "null", "[]", "{}")


def policies(row: Mapping[str, object] | sqlite3.Row) -> dict[str, object]:
    """The ids and the policy fields that every view of a session shows."""
    found: dict[str, object] = {"session_id": row["session_id"], "agent_id": row["agent_id"]}
    for name in POLICY_COLUMNS:
        if row[name] not in _EMPTY:
            found[name] = orjson.Fragment(str(row[name]))
            if name.endswith("_scope"):
                found[f"effective_{name}"] = found[name]
    return found


def summary(row: sqlite3.Row) -> dict[str, object]:
    """SessionViewSummary."""
    return {
        **policies(row),
        "status": row["status"],
        "pending_approvals": row["pending_approvals"],
        "pending_questions": row["pending_questions"],
    }


def snapshot(row: Mapping[str, object], approvals: object, questions: object | None) -> dict[str, object]:
    """ManagedAgentSnapshot of a session's columns and the lists of what it waits for."""
    view: dict[str, object] = {
        "agent": {
            "id": row["agent_id"],
            "parent": None,
            "conversation": {"session_id": row["session_id"], "thread_id": row["thread_id"]},
            "status": row["status"],
            "retention": "retain",
            "spawned_at_ms": row["created_at_ms"],
            "subtasks": [],
            "sidechain_session_id": None,
            "fork_context": None,
        },
        "pending_approvals": approvals,
    }
    if questions is not None:
        view["pending_questions"] = questions
    view["last_assistant_message"] = row["last_assistant_message"]
    view["journal_len"] = row["journal_len"]
    view["checkpoint_len"] = row["checkpoint_len"]
    view["last_error"] = row["last_error"]
    return view


def materialised(row: sqlite3.Row, journal: Sequence[Recorded]) -> dict[str, object]:
    """The session as its journal tells it, in the envelope of the wire contract."""
    return {
        "session_id": row["session_id"],
        "journal": list(journal_events(journal)),
        "checkpoints": list(checkpoints(journal)),
        "audits": list(audits(journal)),
        "outputs": [],
        "metadata": metadata(row),
    }


def metadata(row: sqlite3.Row) -> dict[str, object]:
    """What is set for a session beside its journal, by the keys of the wire contract; JSON passes as it is stored."""
    found: dict[str, object] = {
        f"session_{name}": orjson.Fragment(row[name])
        for name in ("route_policy", "capability_scope", "credential_scope")
        if row[name] not in _EMPTY
    }
    if row["reply_targets"] is not None:
        found["session_reply_targets"] = orjson.Fragment(row["reply_targets"])
    if row["todos"] is not None:
        found["session_control_state"] = {"plan_mode": False, "todos": orjson.Fragment(row["todos"])}
    return found


def journal_events(journal: Iterable[Recorded]) -> Iterator[JsonObject]:
    """Journal entries as `{offset, timestamp_ms, event}`; an entry is at most one event, so offsets stay unique."""
    for recorded in journal:
        event = _event(recorded)
        if event is not None:
            yield {"offset": recorded.offset, "timestamp_ms": recorded.at_ms, "event": event}


def _event(recorded: Recorded) -> JsonObject | None:
    entry = recorded.entry
    match entry:
        case e.InputAccepted(envelope=envelope):
            return {"type": "input_received", "input": envelope}
        case e.ModelReplied():
            return {"type": "message_appended", "message": _assistant(entry)}
        case e.FollowedUp(text=text):
            message: JsonObject = {"id": f"follow-up-{recorded.offset}", "role": "user"}
            return {"type": "message_appended", "message": {**message, "content": text, "pinned": False}}
        case e.ToolIntended():
            call: JsonObject = {"id": entry.call_id, "name": entry.name, "input": entry.input}
            return {"type": "tool_call_started", "call": call}
        case e.ToolFinished():
            return {"type": "tool_call_finished", "result": _result(entry)}
        case e.Microcompacted() | e.Snipped() | e.Compacted():
            return {"type": "compaction_boundary", "boundary": boundary(entry)}
        case e.QuestionRequested(request=request):
            return {"type": "user_question_requested", "request": request}
        case e.QuestionResolved(resolution=resolution):
            return {"type": "user_question_resolved", "resolution": resolution}
        case _:
            return None


def _assistant(entry: e.ModelReplied) -> JsonObject:
    message: JsonObject = {
        "id": entry.message_id,
        "role": "assistant",
        "content": [part for part in map(_content, entry.parts) if part is not None],
        "pinned": False,
        "api_usage": {
            "input_tokens": entry.usage.input_tokens,
            "output_tokens": entry.usage.output_tokens,
            "cost_usd": entry.usage.cost_usd,
        },
    }
    if entry.response_id is not None:
        message["provider_response_id"] = entry.response_id
    return message


def _content(part: Part) -> JsonValue:
    match part:
        case TextPart(text=text):
            return {"type": "text", "text": text}
        case ToolCallPart():
            return {"type": "tool_call", "id": part.call_id, "name": part.name, "input": part.input}
        case _:
            # Reasoning and other provider-only data is shown to nobody.
            return None


def _result(entry: e.ToolFinished) -> JsonObject:
    result: JsonObject = {
        "call_id": entry.call_id,
        "output": entry.output,
        "is_error": entry.is_error,
        "tool_name": entry.name,
    }
    return {**result, **without_empty({"context_updates": list(entry.context_updates)})}


def audits(journal: Iterable[Recorded]) -> Iterator[JsonObject]:
    """The permission decisions of a journal."""
    for recorded in journal:
        match recorded.entry:
            case e.CallsDecided(decisions=decisions):
                yield from (made.audit for made in decisions if made.audit is not None)
            case e.InDoubtAsked(requests=requests):
                yield from map(_audit_of_doubt, requests)


def _audit_of_doubt(request: JsonObject) -> JsonObject:
    named = {name: request[name] for name in ("scope", "tool_name", "tool_call_id", "reason")}
    return {**named, "decision": "ask", "approval_request_id": request["id"]}
