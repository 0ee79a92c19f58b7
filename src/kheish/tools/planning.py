"""todo_write: the agent's plan, kept with the session."""

from __future__ import annotations

from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.tools.failures import ToolFailure
from kheish.tools.fields import array, boolean, closed, flag, objects, optional_text, string, text_of
from kheish.tools.protocol import Replay, Sandbox, TodosWritten, ToolCall, ToolContext, ToolDescriptor, ToolOutcome
from kheish.tools.simple import SimpleTool

_TODO = closed(
    {
        "id": string("Defaults to todo-<n>."),
        "content": string("What is to be done."),
        "completed": boolean("Whether it is done (default false)."),
    },
    required=["content"],
)


class TodoWrite(SimpleTool):
    """Replaces the session's todo list as a whole."""

    descriptor = ToolDescriptor(
        name="todo_write",
        description="Replace the todo list of this session. Send the full list each time; an empty list clears it.",
        schema=closed({"todos": array("The whole list, in order.", _TODO)}, required=["todos"]),
        timeout_ms=10_000,
        sandbox=Sandbox.INHERITED,
        allows_parallel=False,
        replay=Replay.TRANSACTIONAL,
    )

    async def execute(self, call: ToolCall, context: ToolContext) -> ToolOutcome:
        todos = [_todo(fields, index) for index, fields in enumerate(objects(call.input, "todos"))]
        ids = [str(todo["id"]) for todo in todos]
        for index, todo_id in enumerate(ids):
            if todo_id in ids[:index]:
                raise ToolFailure(f"two todos have the id {todo_id!r}")
        return ToolOutcome(output={"todos": list[JsonValue](todos)}, effects=(TodosWritten(todos=tuple(todos)),))


def _todo(fields: JsonObject, index: int) -> JsonObject:
    content = text_of(fields, "content")
    todo_id = optional_text(fields, "id")
    for name, text in (("content", content), ("id", todo_id)):
        if text is not None and not text.strip():
            raise ToolFailure(f"`todos[{index}].{name}` must not be blank")
    return {"id": todo_id or f"todo-{index + 1}", "content": content, "completed": flag(fields, "completed")}
