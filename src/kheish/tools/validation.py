"""Tool inputs against the closed JSON Schema subset that tools declare. Pure."""

from __future__ import annotations

from typing import cast

from kheish.core.jsonvalue import JsonObject, JsonValue

_EXACT = 2**53
"""Above this a float is no count, and as an integer it would not fit into our JSON."""


def normalised(value: JsonValue) -> JsonValue:
    """Turn integral floats into integers, recursively: models write `2.0` for 2."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT:
        return int(value)
    if isinstance(value, list):
        return [normalised(item) for item in value]
    if isinstance(value, dict):
        return {key: normalised(item) for key, item in value.items()}
    return value


def first_error(schema: JsonObject, value: JsonValue, path: str = "") -> str | None:
    """Return what is wrong with ``value``, naming the field, or None."""
    wanted = schema.get("type")
    if wanted is None:
        return None
    if not _has_type(str(wanted), value):
        return f"{path or 'input'}: expected {_article(str(wanted))}, got {_kind(value)}"
    if wanted == "object" and isinstance(value, dict):
        return _object_error(schema, value, path)
    if wanted == "array" and isinstance(value, list):
        return _array_error(schema, value, path)
    allowed = schema.get("enum")
    if isinstance(allowed, list) and value not in allowed:
        return f"{path}: expected one of {', '.join(str(item) for item in allowed)}"
    return None


def _object_error(schema: JsonObject, value: JsonObject, path: str) -> str | None:
    properties = cast("dict[str, JsonObject]", schema.get("properties") or {})
    required = cast("list[str]", schema.get("required") or [])
    if schema.get("additionalProperties") is False:
        for name in value:
            if name not in properties:
                return f"unknown field `{_join(path, name)}`"
    for name in required:
        if value.get(name) is None:
            return f"missing required field `{_join(path, name)}`"
    for name, field in properties.items():
        # Null stands for an optional field that was left out.
        if value.get(name) is not None and (error := first_error(field, value[name], _join(path, name))):
            return error
    return None


def _array_error(schema: JsonObject, value: list[JsonValue], path: str) -> str | None:
    items = schema.get("items")
    if not isinstance(items, dict):
        return None
    for index, item in enumerate(value):
        if error := first_error(items, item, f"{path}[{index}]"):
            return error
    return None


def _has_type(wanted: str, value: JsonValue) -> bool:
    match wanted:
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "object":
            return isinstance(value, dict)
        case "array":
            return isinstance(value, list)
    return True


def _kind(value: JsonValue) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "an array" if isinstance(value, list) else "an object"


def _article(wanted: str) -> str:
    return f"an {wanted}" if wanted[0] in "aeio" else f"a {wanted}"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
