"""What a session knows apart from its messages: todos, what people asked for, files. It outlives every window. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

from kheish.core.jsonvalue import JsonObject, JsonValue, without_empty
from kheish.core.values import value_class
from kheish.engine import entries as e

_INPUTS = 40
_INPUT_CHARS = 4_000
_FILES = 40


@value_class(frozen=True, kw_only=True, slots=True)
class RetainedInput:
    """What somebody asked for, shortened when it is long."""

    message_id: str
    text: str


@dataclass(slots=True)
class SessionFacts:
    """Bounded: the newest inputs and files, the todo list as it was written last."""

    todos: list[JsonObject] = field(default_factory=list)
    inputs: list[RetainedInput] = field(default_factory=list)
    """Oldest first."""
    files_read: list[str] = field(default_factory=list)
    """Each path once, the most recent last; likewise below."""
    files_modified: list[str] = field(default_factory=list)
    workspace_root: str | None = None

    def asked(self, message_id: str, text: str) -> None:
        self.inputs.append(RetainedInput(message_id=message_id, text=clipped(text, _INPUT_CHARS)))
        del self.inputs[:-_INPUTS]

    def finished(self, entry: e.ToolFinished) -> None:
        """Learn from the result of a call."""
        for effect in entry.effects:
            if effect.get("type") == "todos":
                self.todos = cast("list[JsonObject]", effect["todos"])
        for update in entry.context_updates:
            path = str(update.get("path", ""))
            match update.get("type"):
                case "file_read":
                    _note(self.files_read, path)
                case "file_modified":
                    _note(self.files_modified, path)
                case "workspace_root_changed":
                    self.workspace_root = path

    def copy(self) -> SessionFacts:
        return SessionFacts(
            todos=self.todos,
            inputs=list(self.inputs),
            files_read=list(self.files_read),
            files_modified=list(self.files_modified),
            workspace_root=self.workspace_root,
        )

    def restoration(self) -> JsonObject:
        """The `restoration` of a checkpoint."""
        inputs: list[JsonValue] = [{"message_id": asked.message_id, "content": asked.text} for asked in self.inputs]
        workspace = {
            "workspace_root": self.workspace_root,
            "recent_read_files": list[JsonValue](self.files_read),
            "recent_modified_files": list[JsonValue](self.files_modified),
        }
        control: JsonObject = {"plan_mode": False, **without_empty({"todos": list[JsonValue](self.todos)})}
        found: JsonObject = {"workspace_state": without_empty(workspace), "session_control": control}
        return {**found, **without_empty({"retained_user_inputs": inputs})}


def clipped(text: str, limit: int) -> str:
    """At most ``limit`` characters: the beginning and, where that helps, the end."""
    if len(text) <= limit:
        return text
    if limit < 80:
        return text[: max(limit - 1, 0)] + "…"
    return f"{text[: limit * 3 // 4 - 10]} [… cut …] {text[len(text) - (limit // 4 - 10) :]}"


def _note(paths: list[str], path: str) -> None:
    if path in paths:
        paths.remove(path)
    paths.append(path)
    del paths[:-_FILES]
