"""The conversation as the engine keeps it and as every provider adapter receives it."""

from __future__ import annotations

from dataclasses import field
from enum import StrEnum

from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.core.values import value_class


class Role(StrEnum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@value_class(frozen=True, kw_only=True, slots=True)
class TextPart:
    """Visible text."""

    text: str


@value_class(frozen=True, kw_only=True, slots=True)
class ToolCallPart:
    """A tool call the model asked for; its arguments are already a JSON object."""

    call_id: str
    """Minted by the daemon, unique in the session; what goes on the wire both ways."""
    name: str
    input: JsonObject
    provider_call_id: str | None = None
    """What the provider called it; opaque, and possibly repeated or empty."""
    invalid_input: str | None = None
    """Set when the provider's arguments were not a JSON object: why. `input` is then empty."""


@value_class(frozen=True, kw_only=True, slots=True)
class ToolResultPart:
    """The answer to one tool call."""

    call_id: str
    name: str
    output: JsonValue
    is_error: bool = False
    provider_call_id: str | None = None


@value_class(frozen=True, kw_only=True, slots=True)
class OpaquePart:
    """Provider-only data (reasoning signatures, encrypted items): replayed to the same driver, shown to nobody."""

    driver: str
    data: JsonValue


Part = TextPart | ToolCallPart | ToolResultPart | OpaquePart


@value_class(frozen=True, kw_only=True, slots=True)
class Message:
    """One message; parts keep the order in which the provider sent them."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The visible text, parts joined without a separator."""
        texts = [part.text for part in self.parts if isinstance(part, TextPart)]
        return texts[0] if len(texts) == 1 else "".join(texts)

    @property
    def tool_calls(self) -> tuple[ToolCallPart, ...]:
        return tuple(part for part in self.parts if isinstance(part, ToolCallPart))


def user_text(text: str) -> Message:
    return Message(role=Role.USER, parts=(TextPart(text=text),))


class FinishReason(StrEnum):
    COMPLETED = "completed"
    TOOL_CALLS = "tool_calls"
    MAX_TOKENS = "max_tokens"
    STOP_SEQUENCE = "stop_sequence"
    BLOCKED = "blocked"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


@value_class(frozen=True, kw_only=True, slots=True)
class Usage:
    """Tokens of one model call; `cost_usd` is 0 unless prices are configured."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    """Of the input, read from the provider's cache."""
    cache_write_tokens: int = 0
    """Of the input, written to the provider's cache."""
    cost_usd: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cached_input_tokens=self.cached_input_tokens + other.cached_input_tokens,
            cache_write_tokens=self.cache_write_tokens + other.cache_write_tokens,
            cost_usd=self.cost_usd + other.cost_usd,
        )


@value_class(frozen=True, kw_only=True, slots=True)
class ToolSpec:
    """A tool as the model sees it."""

    name: str
    description: str
    input_schema: JsonObject
    allows_parallel: bool = True


class ReasoningEffort(StrEnum):
    NONE = "none"
    MINIMAL = "minimal"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    XHIGH = "xhigh"


@value_class(frozen=True, kw_only=True, slots=True)
class Reasoning:
    effort: ReasoningEffort | None = None
    summary: str | None = None
    """auto, concise, detailed or none."""
    budget_tokens: int | None = None
    interleaved: bool = False


@value_class(frozen=True, kw_only=True, slots=True)
class ToolChoice:
    type: str = "auto"
    """auto, none, required or specific."""
    name: str | None = None


@value_class(frozen=True, kw_only=True, slots=True)
class ResponseFormat:
    type: str = "text"
    """text or structured_json."""
    schema: JsonObject | None = None
    """A SchemaNode of the wire contract (`kind`, `fields`, `optional_fields`, `items`)."""


@value_class(frozen=True, kw_only=True, slots=True)
class Generation:
    """How to sample; a field equal to its default counts as unset when two are merged."""

    model: str | None = None
    fallback_model: str | None = None
    tool_choice: ToolChoice = field(default_factory=ToolChoice)
    allow_parallel_tool_calls: bool = True
    max_output_tokens: int | None = None
    temperature: float | None = None
    reasoning: Reasoning | None = None
    response_format: ResponseFormat = field(default_factory=ResponseFormat)
