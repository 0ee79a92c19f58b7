"""emit_output: something the user sees while the run goes on."""

from __future__ import annotations

from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.tools.failures import ToolFailure
from kheish.tools.fields import array, closed, objects, optional_text, string, text_of
from kheish.tools.protocol import OutputEmitted, Replay, Sandbox, ToolCall, ToolContext, ToolDescriptor, ToolOutcome
from kheish.tools.simple import SimpleTool

_PART = closed(
    {"type": {"type": "string", "description": "The kind of the part.", "enum": ["text"]}, "text": string("The text.")},
    required=["type", "text"],
)


class EmitOutput(SimpleTool):
    """Adds an output to the run."""

    descriptor = ToolDescriptor(
        name="emit_output",
        description="Show the user something now, before the run is finished: a text, or several text parts.",
        schema=closed({"content": string("The text to show."), "parts": array("The parts to show, in order.", _PART)}),
        timeout_ms=30_000,
        sandbox=Sandbox.INHERITED,
        allows_parallel=False,
        replay=Replay.TRANSACTIONAL,
    )

    async def execute(self, call: ToolCall, context: ToolContext) -> ToolOutcome:
        given = optional_text(call.input, "content") or ""
        texts = [text_of(part, "text") for part in objects(call.input, "parts")]
        texts = [text for text in texts if text.strip()]
        if not texts and given.strip():
            texts = [given]
        if not texts:
            raise ToolFailure("there is nothing to show: give `content` or `parts` with text")
        # The plain form of an output always says what its parts say.
        content = given if given.strip() else "\n".join(texts)
        parts: list[JsonObject] = [{"type": "text", "text": text} for text in texts]
        return ToolOutcome(
            output={"content": content, "parts": list[JsonValue](parts), "artifacts": []},
            effects=(OutputEmitted(content=content, parts=tuple(parts)),),
        )
