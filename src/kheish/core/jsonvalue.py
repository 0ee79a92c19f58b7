"""JSON values and the two encodings the daemon uses."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import TypeAlias

import orjson

JsonValue: TypeAlias = "None | bool | int | float | str | list[JsonValue] | dict[str, JsonValue]"
JsonObject: TypeAlias = "dict[str, JsonValue]"


encode: Callable[[object], bytes] = orjson.dumps
"""Compact JSON of a value; keys keep their order."""


def canonical(value: object) -> bytes:
    """Return minified JSON with sorted keys: equal values give equal bytes."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def decode(data: bytes | str) -> JsonValue:
    """Parse JSON.

    Raises:
        ValueError: the bytes are not valid JSON or not valid UTF-8.
    """
    value: JsonValue = orjson.loads(data)
    return value


def decode_object(data: bytes | str) -> JsonObject:
    """Parse a JSON object.

    Raises:
        ValueError: the text is not JSON, or its value is not an object.
    """
    value = decode(data)
    if not isinstance(value, dict):
        raise ValueError("expected a JSON object")
    return value


def digest(value: object) -> str:
    """Return the SHA-256 of the canonical form, as lower-case hex."""
    return hashlib.sha256(canonical(value)).hexdigest()


def without_empty(fields: Mapping[str, JsonValue]) -> JsonObject:
    """Drop keys whose value is null, false, zero, or an empty list, object or text ("omit" in the wire contract)."""
    return {key: value for key, value in fields.items() if value}
