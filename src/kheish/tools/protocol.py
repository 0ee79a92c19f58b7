"""What a tool is. The runtime validates, limits and times; a tool only does its one thing."""

from __future__ import annotations

from dataclasses import field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.core.values import value_class


class Replay(StrEnum):
    """What to do with a call whose intent is durable but whose outcome is not."""

    TRANSACTIONAL = "transactional"
    """Its effect is rows of our own store, committed with its result: never in doubt, run again."""
    SAFE = "safe"
    """Reads only: run again."""
    KEYED = "keyed"
    """Run again with the same idempotency key."""
    NEVER = "never"
    """Never run again: the model is told that the daemon restarted while it ran."""


class Sandbox(StrEnum):
    """Ordered from least to most: see `SANDBOX_ORDER`."""

    INHERITED = "inherited"
    READ_ONLY = "read_only"
    WORKSPACE_WRITE = "workspace_write"
    NETWORK_ENABLED = "network_enabled"


SANDBOX_ORDER: tuple[Sandbox, ...] = tuple(Sandbox)


@value_class(frozen=True, kw_only=True, slots=True)
class ToolDescriptor:
    """A tool's public face; `schema` is a closed JSON Schema object."""

    name: str
    description: str
    schema: JsonObject
    timeout_ms: int
    sandbox: Sandbox
    allows_parallel: bool
    replay: Replay
    asks_human: bool = False
    """True when the call suspends the run on a structured question instead of running."""


@value_class(frozen=True, kw_only=True, slots=True)
class ToolCall:
    id: str
    name: str
    input: JsonObject
    idempotency_key: str = ""
    """The same for every attempt of this call and for no other call, of this daemon or another."""


@value_class(frozen=True, kw_only=True, slots=True)
class ToolContext:
    """Where a call runs. Nothing here names a secret."""

    session_id: str
    run_id: str
    workspace_root: Path
    """Canonical (symlinks resolved)."""
    forbidden_roots: tuple[Path, ...] = ()
    """Canonical paths that file tools treat as outside the workspace: the state root."""
    now_ms: int = 0
    """When the call was dispatched."""


@value_class(frozen=True, kw_only=True, slots=True)
class TodosWritten:
    """Effect: the session's todo list is replaced."""

    todos: tuple[JsonObject, ...]


@value_class(frozen=True, kw_only=True, slots=True)
class OutputEmitted:
    """Effect: the run gets an output (`content`, `parts`, `artifacts` of an OutputRecord)."""

    content: str
    parts: tuple[JsonObject, ...] = ()
    artifacts: tuple[JsonObject, ...] = ()


Effect = TodosWritten | OutputEmitted


@value_class(frozen=True, kw_only=True, slots=True)
class ToolOutcome:
    """What a call produced. An error output is an object with `error`."""

    output: JsonValue
    is_error: bool = False
    context_updates: tuple[JsonObject, ...] = ()
    """file_read{path}, file_modified{path}, ... tagged by `type`."""
    effects: tuple[Effect, ...] = field(default=())
    """Written by the engine in the commit of the result."""


class Prepared(Protocol):
    """A call that is ready but has changed nothing yet."""

    facts: JsonObject
    """Recorded with the intent (a gated child's process group, an intended file digest)."""

    async def run(self) -> ToolOutcome:
        """Do it, once, after the intent is durable. Cancelling the task must stop the effect and its children."""
        ...

    async def abandon(self) -> None:
        """The intent was not recorded: release what `prepare` took."""
        ...


class Tool(Protocol):
    """One tool."""

    descriptor: ToolDescriptor

    async def prepare(self, call: ToolCall, context: ToolContext) -> Prepared:
        """Get ready without any effect."""
        ...

    async def settle(self, call: ToolCall, facts: JsonObject, context: ToolContext) -> ToolOutcome | None:
        """Say what an in-doubt call did, by looking at the world; None when that cannot be known."""
        ...


@value_class(frozen=True, kw_only=True, slots=True)
class QuestionAsked:
    """A validated question request, ready to be shown to a human (UserQuestionRequest without ids and times)."""

    questions: tuple[JsonObject, ...]
    expires_at_ms: int | None = None
    expires_after_ms: int | None = None


class QuestionTool(Protocol):
    """A tool with `asks_human`: it never runs, it turns its input into questions."""

    descriptor: ToolDescriptor

    def ask(self, call: ToolCall) -> QuestionAsked | ToolOutcome:
        """Return the questions, or an error outcome naming what is wrong with the input."""
        ...
