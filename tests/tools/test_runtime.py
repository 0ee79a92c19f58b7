"""The tool runtime: what it refuses before permissions are asked, and what it bounds."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.tools.builtin import builtin_tools
from kheish.tools.limits import InvalidToolRuntimeLimits, ToolRuntimeLimits
from kheish.tools.protocol import (
    Prepared,
    Replay,
    Sandbox,
    ToolCall,
    ToolContext,
    ToolDescriptor,
    ToolOutcome,
)
from kheish.tools.registry import ToolRegistry
from kheish.tools.runtime import BatchBudget, ToolRuntime, audit_target

pytestmark = pytest.mark.anyio

LIMITS = ToolRuntimeLimits()
RUNTIME = ToolRuntime(ToolRegistry(builtin_tools({})))


def refusal(name: str, given: JsonObject, *, index: int = 0, limits: ToolRuntimeLimits = LIMITS) -> JsonObject | None:
    outcome = RUNTIME.admit(ToolCall(id="c", name=name, input=given), index_in_turn=index, limits=limits)
    if outcome is None:
        return None
    assert outcome.is_error
    assert isinstance(outcome.output, dict)
    return outcome.output


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"path": "a", "colour": "red"}, "colour"),
        ({}, "path"),
        ({"path": None}, "path"),
        ({"path": 7}, "path"),
        ({"path": "a", "line_count": "2"}, "line_count"),
        ({"path": "a", "include_base64": 1}, "include_base64"),
    ],
)
def test_bad_input_is_an_error_that_names_the_field(given: JsonObject, field: str) -> None:
    output = refusal("read_file", given)

    assert output is not None
    assert f"{field}" in str(output["error"])


@pytest.mark.parametrize("given", [{"path": "a"}, {"path": "a", "line_count": 2.0}, {"path": "a", "line_count": None}])
def test_optional_fields_may_be_null_and_integral_floats_are_whole_numbers(given: JsonObject) -> None:
    assert refusal("read_file", given) is None


def test_nested_fields_are_named_with_their_path() -> None:
    output = refusal("apply_patch", {"hunks": [{"path": "a", "old_text": "x"}]})

    assert output is not None
    assert "hunks[0].new_text" in str(output["error"])


def test_an_unknown_tool_is_an_error_result() -> None:
    output = refusal("nope", {})

    assert output is not None
    assert "tool not found" in str(output["error"])


def test_input_over_its_limit_names_the_quota_and_both_sizes() -> None:
    output = refusal("read_file", {"path": "x" * 200}, limits=ToolRuntimeLimits(max_input_bytes=100))

    assert output is not None
    assert (output["quota"], output["limit_bytes"], output["actual_bytes"]) == ("input_bytes", 100, 211)


def test_calls_beyond_the_turns_quota_are_refused() -> None:
    limits = ToolRuntimeLimits(max_calls_per_turn=2)

    outputs = [refusal("read_file", {"path": "a"}, index=index, limits=limits) for index in range(3)]

    assert outputs[:2] == [None, None]
    assert outputs[2] is not None
    assert (outputs[2]["quota"], outputs[2]["limit_calls"]) == ("max_calls_per_turn", 2)


def test_a_sandbox_limit_closes_stronger_tools_and_leaves_the_others() -> None:
    limits = ToolRuntimeLimits(max_sandbox=Sandbox.READ_ONLY)
    output = refusal("bash", {"command": "ls"}, limits=limits)

    assert output is not None
    assert output["quota"] == "sandbox"
    assert refusal("read_file", {"path": "a"}, limits=limits) is None


def test_what_is_not_built_is_absent_from_the_schema_the_model_sees() -> None:
    specs = {spec.name: spec.input_schema for spec in RUNTIME.specs()}

    assert list(specs) == sorted(specs)
    assert "run_in_background" not in json.dumps(specs["bash"])
    assert "asset" not in json.dumps(specs["emit_output"])
    assert all(schema["additionalProperties"] is False for schema in specs.values())


def test_every_tool_declares_how_it_is_replayed() -> None:
    classes = {spec.name: RUNTIME.descriptor(spec.name).replay for spec in RUNTIME.specs()}

    assert classes == {
        "apply_patch": Replay.NEVER,
        "ask_user_question": Replay.TRANSACTIONAL,
        "bash": Replay.NEVER,
        "edit_file": Replay.NEVER,
        "emit_output": Replay.TRANSACTIONAL,
        "glob_search": Replay.SAFE,
        "grep_search": Replay.SAFE,
        "list_files": Replay.SAFE,
        "read_file": Replay.SAFE,
        "todo_write": Replay.TRANSACTIONAL,
        "write_file": Replay.NEVER,
    }


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"max_input_bytes": 0}, "max_input_bytes"),
        ({"max_timeout_ms": -1}, "max_timeout_ms"),
        ({"max_parallel_tools": True}, "max_parallel_tools"),
        ({"max_output_bytes": "9"}, "max_output_bytes"),
        ({"max_sandbox": "none"}, "max_sandbox"),
        ({"colour": 1}, "colour"),
    ],
)
def test_limits_that_cannot_be_are_refused_by_field(change: JsonObject, field: str) -> None:
    with pytest.raises(InvalidToolRuntimeLimits, match=field):
        ToolRuntimeLimits.from_json({**LIMITS.to_json(), **change})


def test_limits_come_back_from_json_as_they_were_and_must_be_complete() -> None:
    assert ToolRuntimeLimits.from_json(LIMITS.to_json()) == LIMITS
    with pytest.raises(InvalidToolRuntimeLimits, match="required"):
        ToolRuntimeLimits.from_json({"max_sandbox": "read_only"})


def test_the_audit_never_holds_a_command() -> None:
    target = audit_target(ToolCall(id="c", name="bash", input={"command": "echo secret"}))

    assert target.startswith("bash:command_sha256:")
    assert len(target.rpartition(":")[2]) == 16
    assert audit_target(ToolCall(id="c", name="mcp__a__b", input={})) == "mcp_tool:mcp__a__b"
    assert audit_target(ToolCall(id="c", name="read_file", input={})) == "tool:read_file"


class Given:
    """A tool that answers with what the test gives it."""

    def __init__(self, answer: JsonValue | Exception, *, timeout_ms: int = 1000, waits: bool = False) -> None:
        self.descriptor = ToolDescriptor(
            name="given",
            description="",
            schema={"type": "object", "properties": {}, "additionalProperties": False},
            timeout_ms=timeout_ms,
            sandbox=Sandbox.INHERITED,
            allows_parallel=True,
            replay=Replay.SAFE,
        )
        self.facts: JsonObject = {}
        self._answer = answer
        self._waits = waits

    async def prepare(self, call: ToolCall, context: ToolContext) -> Prepared:
        return self

    async def settle(self, call: ToolCall, facts: JsonObject, context: ToolContext) -> ToolOutcome | None:
        return None

    async def abandon(self) -> None:
        return None

    async def run(self) -> ToolOutcome:
        if self._waits:
            await asyncio.Event().wait()
        if isinstance(self._answer, Exception):
            raise self._answer
        return ToolOutcome(output=self._answer, context_updates=({"type": "file_read", "path": "a"},))


async def run(tool: Given, budget: BatchBudget) -> ToolOutcome:
    runtime = ToolRuntime(ToolRegistry((tool,)))
    context = ToolContext(session_id="s", run_id="r", workspace_root=Path("/nonexistent"))
    prepared = await runtime.prepare(ToolCall(id="c", name="given", input={}), context)
    return await runtime.execute(prepared, tool.descriptor, budget)


async def test_a_tool_that_takes_too_long_is_an_error_result() -> None:
    outcome = await run(Given("x", timeout_ms=1, waits=True), BatchBudget(LIMITS))

    assert outcome.output == {"error": "given timed out after 1 ms", "tool": "given"}
    assert outcome.is_error


async def test_a_tool_that_breaks_is_an_error_result_that_tells_no_detail() -> None:
    outcome = await run(Given(RuntimeError("key sk-123 is wrong")), BatchBudget(LIMITS))

    assert outcome.is_error
    assert "RuntimeError" in str(outcome.output)
    assert "sk-123" not in str(outcome.output)


async def test_output_over_its_limit_becomes_a_quota_error_without_context_updates() -> None:
    outcome = await run(Given("x" * 200), BatchBudget(ToolRuntimeLimits(max_output_bytes=100)))

    assert isinstance(outcome.output, dict)
    assert (outcome.output["quota"], outcome.output["actual_bytes"]) == ("output_bytes", 202)
    assert outcome.context_updates == ()


async def test_the_calls_of_a_turn_share_one_budget() -> None:
    budget = BatchBudget(ToolRuntimeLimits(max_cumulative_output_bytes=100))

    first, second, third = [await run(Given("x" * size), budget) for size in (58, 58, 20)]

    assert (first.is_error, second.is_error, third.is_error) == (False, True, False)
    assert isinstance(second.output, dict)
    assert second.output["quota"] == "cumulative_output_bytes"
