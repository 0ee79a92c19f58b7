"""The journal's rows are a promise: what an older release wrote must be read forever."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kheish.core.messages import (
    FinishReason,
    Generation,
    OpaquePart,
    Reasoning,
    ReasoningEffort,
    ResponseFormat,
    TextPart,
    ToolCallPart,
    ToolChoice,
    Usage,
)
from kheish.engine import entries as e
from kheish.engine.codec import VERSION, decode_entry, encode_entry, type_name
from kheish.engine.entries import CredentialUse, Decision, Entry, OnInDoubt, OnRestart, RouteRef, Ruling, RunStatus

GOLDEN = Path(__file__).parent / "golden" / "entries_v1.jsonl"

ENTRIES: tuple[Entry, ...] = (
    e.InputAccepted(
        agent_id="agent-1",
        kind="input",
        envelope={"payload": {"type": "text", "content": "grüße"}},
        text="grüße",
        route=RouteRef(route_id="main", driver="openai", model="gpt-5.4"),
        generation=Generation(
            model="gpt-5.4",
            tool_choice=ToolChoice(type="specific", name="bash"),
            reasoning=Reasoning(effort=ReasoningEffort.HIGH, budget_tokens=1024),
            response_format=ResponseFormat(type="structured_json", schema={"kind": "any"}),
        ),
        summary={"source_plugin": "daemon"},
        requirements=({"type": "workspace_file", "path": "a.md"},),
        max_turns=7,
        reply_targets=({"plugin": "http", "address": "x"},),
    ),
    e.InputAccepted(
        agent_id="agent-1",
        kind="input",
        envelope={},
        text="careful",
        route=RouteRef(route_id="main", driver="openai", model="gpt-5.4"),
        generation=Generation(),
        summary={},
        on_restart=OnRestart.INTERRUPT,
        on_in_doubt=OnInDoubt.ASK,
    ),
    e.RunStarted(),
    e.ModelReplied(
        turn=1,
        message_id="msg-1",
        parts=(
            OpaquePart(driver="anthropic", data=[{"type": "thinking", "signature": "s"}]),
            TextPart(text="hm"),
            ToolCallPart(call_id="call-1", name="bash", input={"command": "ls"}, provider_call_id="p"),
            ToolCallPart(call_id="call-2", name="bash", input={}, invalid_input="not an object"),
        ),
        finish_reason=FinishReason.TOOL_CALLS,
        usage=Usage(input_tokens=3, output_tokens=4, cached_input_tokens=1, cost_usd=0.5),
        response_id="resp",
    ),
    e.ModelFailed(
        turn=1,
        attempt=1,
        kind="stopped",
        message="the run was stopped",
        access=CredentialUse(
            subject_id="session:s",
            grant_id="g",
            lease_id="l",
            slot_id="openai.prod",
            issued_at_ms=1,
            expires_at_ms=60_001,
            started_at_ms=2,
            subject_epoch=1,
            request_digest="00",
        ),
    ),
    e.ModelFailed(turn=1, attempt=1, kind="rate_limited", message="busy", retry_at_ms=5, max_output_tokens=9),
    e.CallsDecided(
        decisions=(
            Decision(
                call_id="call-1",
                ruling=Ruling.ASK,
                replay="never",
                input={"command": "ls"},
                approval={"id": "approval-bash-1-x"},
                audit={"decision": "ask"},
            ),
            Decision(call_id="call-2", ruling=Ruling.REFUSE, refusal={"error": "bad"}),
        )
    ),
    e.ApprovalsResolved(resolutions=({"request_id": "approval-bash-1-x", "behavior": "allow"},)),
    e.InDoubtAsked(requests=({"id": "approval-bash-2-x", "tool_call_id": "call-1", "in_doubt": True},)),
    e.QuestionRequested(call_id="call-3", request={"id": "question-request-call-3", "questions": []}),
    e.QuestionResolved(call_id="call-3", resolution={"request_id": "question-request-call-3", "declined": True}),
    e.ToolIntended(call_id="call-1", name="bash", input={"command": "ls"}, facts={"pid": 1}, attempt=2),
    e.ToolFinished(
        call_id="call-1",
        name="bash",
        output={"exit_code": 0},
        is_error=True,
        context_updates=({"type": "file_modified", "path": "a.md"},),
        effects=({"type": "todos", "todos": []},),
    ),
    e.FollowedUp(
        reason="completion_requirements",
        text="go on",
        tool_choice=ToolChoice(type="required"),
        max_output_tokens=64_000,
    ),
    e.Woken(),
    e.Resumed(reason="daemon_restart", turn=1, reused_call_ids=("call-1",), in_doubt_call_ids=("call-2",)),
    e.StopRequested(status=RunStatus.CANCELLED, error="late"),
    e.RunEnded(status=RunStatus.COMPLETED, output="done"),
    e.SessionEnded(reason="over"),
    e.Microcompacted(turn=3, cleared_tool_ids=("call-1", "call-2"), tokens_freed=900),
    e.Snipped(turn=3, messages_removed=4, tokens_freed=800, new_head_offset=17, note="left out"),
    e.Compacted(
        turn=4,
        trigger="auto",
        strategy="model_driven",
        pre_tokens=9_000,
        post_tokens=1_000,
        window_generation=2,
        compacted_until_offset=30,
        title="Summary",
        summary="what was said",
        restoration={"session_control": {"plan_mode": False, "todos": []}},
        usage=Usage(input_tokens=8, output_tokens=2),
    ),
    e.ModelFailed(
        turn=1,
        attempt=1,
        kind="structured_output_invalid",
        message="no",
        usage=Usage(input_tokens=3, output_tokens=4, cached_input_tokens=1, cache_write_tokens=2, cost_usd=0.5),
    ),
)


@pytest.mark.parametrize("entry", ENTRIES, ids=type_name)
def test_every_entry_comes_back_as_it_was(entry: Entry) -> None:
    assert decode_entry(type_name(entry), VERSION, encode_entry(entry)) == entry


def test_every_kind_of_entry_is_covered() -> None:
    assert {type(entry) for entry in ENTRIES} == set(Entry.__args__)


def test_a_route_may_name_its_window() -> None:
    route = RouteRef(route_id="main", driver="openai", model="m", context_window_tokens=8_192)
    accepted = replace(ENTRIES[0], route=route)  # type: ignore[type-var]  # the first one is an InputAccepted
    assert decode_entry("input_accepted", VERSION, encode_entry(accepted)) == accepted


def test_rows_written_by_version_1_are_still_read() -> None:
    rows = [json.loads(line) for line in GOLDEN.read_text().splitlines()]

    read = tuple(decode_entry(row["type"], row["version"], json.dumps(row["body"])) for row in rows)

    assert read == ENTRIES


def test_what_is_written_now_is_what_the_golden_file_holds() -> None:
    now = [{"type": type_name(x), "version": VERSION, "body": json.loads(encode_entry(x))} for x in ENTRIES]

    assert now == [json.loads(line) for line in GOLDEN.read_text().splitlines()]


@pytest.mark.parametrize(
    ("name", "version", "body"),
    [("nope", 1, "{}"), ("woken", 99, "{}"), ("woken", 1, "{"), ("woken", 1, "[]"), ("run_ended", 1, "{}")],
)
def test_a_damaged_or_unknown_row_is_a_clear_error(name: str, version: int, body: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_entry(name, version, body)


def test_a_field_of_a_newer_minor_change_is_ignored() -> None:
    assert decode_entry("woken", 1, '{"new": 1}') == e.Woken()
