"""What the wires have in common: careful readers of foreign JSON, call ids, tool outputs."""

from __future__ import annotations

import hashlib
import json
import re

from kheish.core.jsonvalue import JsonObject, JsonValue, decode, encode
from kheish.core.messages import ToolCallPart, ToolResultPart

MAX_CALL_ID = 64
MAX_ARGUMENT_DEPTH = 100
"""Far more than any tool takes, and less than what our JSON can write back."""
_BEYOND_ANY_COUNT = 2**53
_CALL_ID = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_CALL_ID}}}\Z")
_FOREIGN = re.compile(r"[^A-Za-z0-9_-]")


def as_object(value: JsonValue) -> JsonObject:
    """Return an object; anything else becomes an empty one."""
    return value if isinstance(value, dict) else {}


def as_list(value: JsonValue) -> list[JsonValue]:
    return value if isinstance(value, list) else []


def as_str(value: JsonValue) -> str:
    return value if isinstance(value, str) else ""


def as_int(value: JsonValue) -> int:
    """Return a whole number; anything else, and anything negative, becomes 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _BEYOND_ANY_COUNT:
        return 0
    return int(value)


def as_amount(value: JsonValue) -> float:
    """Return an amount of money; anything else, and anything negative, becomes 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _BEYOND_ANY_COUNT:
        return 0.0
    return float(value)


def load(data: bytes) -> JsonValue:
    """Parse JSON, forgiving what some servers send: invalid UTF-8 and halves of surrogate pairs become U+FFFD.

    Raises:
        ValueError: it is not JSON.
    """
    try:
        return decode(data)
    except ValueError:
        pass
    try:
        text = json.dumps(json.loads(data.decode("utf-8", "replace")), ensure_ascii=False, allow_nan=False)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return decode(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def call_part(*, name: str, arguments: JsonValue, provider_call_id: str) -> ToolCallPart:
    """Make a tool call from the arguments as the provider sent them, a JSON text or already an object."""
    parsed, fault = _parse_arguments(arguments)
    return ToolCallPart(
        call_id="", name=name, input=parsed, provider_call_id=provider_call_id or None, invalid_input=fault
    )


def _parse_arguments(arguments: JsonValue) -> tuple[JsonObject, str | None]:
    if isinstance(arguments, str):
        if not arguments.strip():
            return {}, None
        try:
            arguments = load(arguments.encode("utf-8", "replace"))
        except ValueError:
            return {}, "the arguments are not valid JSON"
    if arguments is None:
        return {}, None
    if not isinstance(arguments, dict):
        return {}, "the arguments are not a JSON object"
    if _deeper_than(arguments, MAX_ARGUMENT_DEPTH):
        return {}, f"the arguments are nested deeper than {MAX_ARGUMENT_DEPTH} levels"
    return arguments, None


def _deeper_than(value: JsonValue, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(levels == 0 or _deeper_than(item, levels - 1) for item in inner if isinstance(item, dict | list))


def wire_call_id(call_id: str) -> str:
    """Return the id both sides use on the wire: ours, made to fit what the providers accept."""
    if _CALL_ID.match(call_id):
        return call_id
    digest = hashlib.sha256(call_id.encode("utf-8", "replace")).hexdigest()[:16]
    return f"{_FOREIGN.sub('_', call_id)[: MAX_CALL_ID - 17]}_{digest}"


def arguments_text(call: ToolCallPart) -> str:
    return encode(call.input).decode()


def output_text(result: ToolResultPart, *, mark_error: bool) -> str:
    """Return what the model reads. ``mark_error`` is for wires without a place for the error flag."""
    if not isinstance(result.output, str):
        return encode(result.output).decode()
    return f"Error: {result.output}" if mark_error and result.is_error else result.output
