"""The tools an agent can see."""

from __future__ import annotations

from collections.abc import Iterable

from kheish.core.messages import ToolSpec
from kheish.tools.protocol import QuestionTool, Tool, ToolDescriptor


class ToolRegistry:
    """Tools by name; what the model sees is sorted, so that provider caches keep their prefix."""

    def __init__(self, tools: Iterable[Tool | QuestionTool]) -> None:
        self._tools: dict[str, Tool | QuestionTool] = {}
        for tool in tools:
            name = tool.descriptor.name
            if name in self._tools:
                raise ValueError(f"two tools are called {name!r}")
            self._tools[name] = tool
        self._specs = tuple(_spec(self._tools[name].descriptor) for name in sorted(self._tools))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self._tools))

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        return self._specs

    def get(self, name: str) -> Tool | QuestionTool | None:
        return self._tools.get(name)


def _spec(descriptor: ToolDescriptor) -> ToolSpec:
    return ToolSpec(
        name=descriptor.name,
        description=descriptor.description,
        input_schema=descriptor.schema,
        allows_parallel=descriptor.allows_parallel,
    )
