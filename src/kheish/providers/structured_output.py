"""Does a reply keep the form that was asked of it? Pure."""

from __future__ import annotations

from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.providers.wire import as_object, as_str, load

_KINDS: dict[str, tuple[type, ...]] = {"string": (str,), "number": (int, float), "boolean": (bool,)}


def fault_in(text: str, schema: JsonObject | None) -> str | None:
    """Say why a text is not a JSON value of a schema node; None when it is.

    The words hold names from the schema and nothing of the text.
    """
    try:
        value = load(text.encode("utf-8", "replace"))
    except ValueError:
        return "the reply is not JSON"
    return _fault(value, schema or {"kind": "any"}, "the reply")


def _fault(value: JsonValue, node: JsonObject, where: str) -> str | None:
    kind = as_str(node.get("kind"))
    if kind == "object":
        return _object_fault(value, node, where)
    if kind == "array":
        return _array_fault(value, node, where)
    types = _KINDS.get(kind)
    if types is None or (isinstance(value, types) and (kind == "boolean" or not isinstance(value, bool))):
        return None
    return f"{where} is not a {kind}"


def _object_fault(value: JsonValue, node: JsonObject, where: str) -> str | None:
    if not isinstance(value, dict):
        return f"{where} is not an object"
    required, optional = as_object(node.get("fields")), as_object(node.get("optional_fields"))
    for name in required:
        if name not in value:
            return f"{where} lacks the field {name!r}"
    known = {**required, **optional}
    for name, item in value.items():
        if name not in known:
            return f"{where} has a field that was not asked for"
        fault = _fault(item, as_object(known[name]), f"the field {name!r}")
        if fault is not None:
            return fault
    return None


def _array_fault(value: JsonValue, node: JsonObject, where: str) -> str | None:
    if not isinstance(value, list):
        return f"{where} is not an array"
    items = as_object(node.get("items"))
    faults = (_fault(item, items, f"an item of {where}") for item in value)
    return next((fault for fault in faults if fault is not None), None)
