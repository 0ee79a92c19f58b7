"""A tool without preparation: one coroutine that takes the input and gives the outcome."""

from __future__ import annotations

from abc import ABC, abstractmethod

from kheish.core.jsonvalue import JsonObject
from kheish.tools.failures import ToolFailure
from kheish.tools.protocol import Prepared, ToolCall, ToolContext, ToolDescriptor, ToolOutcome


class SimpleTool(ABC):
    """Base of tools that read, or whose effect is rows of our own store: nothing to settle after a restart."""

    descriptor: ToolDescriptor

    async def prepare(self, call: ToolCall, context: ToolContext) -> Prepared:
        return _Ready(self, call, context)

    async def settle(self, call: ToolCall, facts: JsonObject, context: ToolContext) -> ToolOutcome | None:
        return None

    @abstractmethod
    async def execute(self, call: ToolCall, context: ToolContext) -> ToolOutcome:
        """Do it. A `ToolFailure` becomes the error outcome."""


class _Ready:
    def __init__(self, tool: SimpleTool, call: ToolCall, context: ToolContext) -> None:
        self.facts: JsonObject = {}
        self._tool = tool
        self._call = call
        self._context = context

    async def run(self) -> ToolOutcome:
        try:
            return await self._tool.execute(self._call, self._context)
        except ToolFailure as failure:
            return failure.outcome(self._call.name)

    async def abandon(self) -> None:
        return None
