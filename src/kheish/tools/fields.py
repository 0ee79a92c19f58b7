"""Declaring the input fields of a tool and reading them. The runtime has checked types before a tool reads."""

from __future__ import annotations

from collections.abc import Sequence

from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.tools.failures import ToolFailure


def closed(properties: dict[str, JsonObject], *, required: Sequence[str] = ()) -> JsonObject:
    """Return the schema of an object that has these fields and no others."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(required),
        "additionalProperties": False,
    }


def string(description: str) -> JsonObject:
    return {"type": "string", "description": description}


def number(description: str) -> JsonObject:
    return {"type": "number", "description": description}


def boolean(description: str) -> JsonObject:
    return {"type": "boolean", "description": description}


def array(description: str, items: JsonObject) -> JsonObject:
    return {"type": "array", "description": description, "items": items}


def text_of(fields: JsonObject, name: str) -> str:
    """Return a required text."""
    value = fields.get(name)
    if not isinstance(value, str):
        raise ToolFailure(f"missing required field `{name}`")
    return value


def optional_text(fields: JsonObject, name: str) -> str | None:
    """Return a text, or None when the field is absent or null."""
    return None if fields.get(name) is None else text_of(fields, name)


def flag(fields: JsonObject, name: str) -> bool:
    """Return a switch that is off unless it was set."""
    return fields.get(name) is True


def whole(fields: JsonObject, name: str, *, default: int | None = None, minimum: int = 1) -> int | None:
    """Return a whole number of at least ``minimum``, or the default when the field is absent or null.

    Raises:
        ToolFailure: the number has a fraction or is too small.
    """
    value = fields.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ToolFailure(f"`{name}` must be a whole number of at least {minimum}")
    return value


def objects(fields: JsonObject, name: str) -> list[JsonObject]:
    """Return a list of objects; empty when the field is absent or null."""
    value: JsonValue = fields.get(name)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
