"""A tool's own way of saying that a call failed."""

from __future__ import annotations

from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.tools.protocol import ToolOutcome


class ToolFailure(Exception):
    """The call cannot be done; the model reads why. ``facts`` stand beside the message in the output."""

    def __init__(self, message: str, **facts: JsonValue) -> None:
        self.message = message
        self.facts: JsonObject = dict(facts)
        super().__init__(message)

    def outcome(self, tool: str) -> ToolOutcome:
        """Return the error outcome of a call to ``tool``."""
        return ToolOutcome(output={"error": self.message, "tool": tool, **self.facts}, is_error=True)
