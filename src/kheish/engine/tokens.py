"""How many tokens something is worth to a model: an estimate from its bytes, the same on every machine. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from kheish.core.jsonvalue import JsonValue, encode
from kheish.core.messages import Message, OpaquePart, Part, TextPart, ToolCallPart, ToolResultPart, ToolSpec

BYTES_PER_TOKEN = 4
_MESSAGE_TOKENS = 4
"""What a provider adds around one message."""


def text_tokens(text: str) -> int:
    return _tokens(len(text.encode(errors="replace")))


def value_tokens(value: JsonValue) -> int:
    return _tokens(len(encode(value)))


def message_tokens(message: Message) -> int:
    """Ids are left out: they differ from life to life, and the estimate must not."""
    return _MESSAGE_TOKENS + sum(part_tokens(part) for part in message.parts)


def standing_tokens(system: Iterable[str], tools: Iterable[ToolSpec]) -> int:
    """What every request of a run carries beside its messages."""
    described = (text_tokens(tool.name + tool.description) + value_tokens(tool.input_schema) for tool in tools)
    return sum(map(text_tokens, system)) + sum(described)


def part_tokens(part: Part) -> int:
    """What one part adds to its message."""
    match part:
        case TextPart(text=text):
            return text_tokens(text)
        case ToolCallPart(name=name, input=given):
            return text_tokens(name) + value_tokens(given)
        case ToolResultPart(output=output):
            return value_tokens(output)
        case OpaquePart(data=data):
            return value_tokens(data)


def _tokens(size: int) -> int:
    return -(-size // BYTES_PER_TOKEN)
