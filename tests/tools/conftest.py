from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.tools.limits import ToolRuntimeLimits
from kheish.tools.protocol import Tool, ToolCall, ToolContext, ToolOutcome
from kheish.tools.registry import ToolRegistry
from kheish.tools.runtime import BatchBudget, ToolRuntime


class Bench:
    """Runs one tool the way the engine does: admit, prepare, run."""

    def __init__(self, tool: Tool, context: ToolContext) -> None:
        self.tool = tool
        self.context = context
        self.limits = ToolRuntimeLimits()
        self._runtime = ToolRuntime(ToolRegistry([tool]))

    def call(self, **fields: JsonValue) -> ToolCall:
        return ToolCall(id="call-1", name=self.tool.descriptor.name, input=fields)

    async def run(self, **fields: JsonValue) -> ToolOutcome:
        call = self.call(**fields)
        refused = self._runtime.admit(call, index_in_turn=0, limits=self.limits)
        if refused is not None:
            return refused
        prepared = await self._runtime.prepare(call, self.context)
        return await self._runtime.execute(prepared, self.tool.descriptor, BatchBudget(self.limits))

    async def output(self, **fields: JsonValue) -> JsonObject:
        """The output of a call that must succeed."""
        outcome = await self.run(**fields)
        assert not outcome.is_error, outcome.output
        assert isinstance(outcome.output, dict)
        return outcome.output

    async def error(self, **fields: JsonValue) -> str:
        """The message of a call that must fail."""
        outcome = await self.run(**fields)
        assert outcome.is_error, outcome.output
        assert isinstance(outcome.output, dict)
        assert outcome.output["tool"] == self.tool.descriptor.name
        assert outcome.context_updates == ()
        return str(outcome.output["error"])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty workspace; its parent holds what must stay out of reach."""
    made = tmp_path.resolve() / "workspace"
    made.mkdir()
    return made


@pytest.fixture
def context(root: Path) -> ToolContext:
    return ToolContext(session_id="demo", run_id="run-1", workspace_root=root)


@pytest.fixture
def bench(context: ToolContext) -> Callable[[Tool], Bench]:
    return lambda tool: Bench(tool, context)
