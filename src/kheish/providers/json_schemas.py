"""JSON Schema as the providers want it: projected from our schema nodes, and made strict where that is possible."""

from __future__ import annotations

from kheish.core.jsonvalue import JsonObject, JsonValue, encode
from kheish.providers.wire import as_list, as_object, as_str

_SCALARS = frozenset({"string", "number", "boolean"})
# Keywords the strict mode of OpenAI takes; anything else makes a schema not strict.
_STRICT_KEYWORDS = frozenset(
    {
        "type", "properties", "required", "additionalProperties", "items", "enum", "const", "anyOf", "description",
        "title", "pattern", "format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
        "minItems", "maxItems",
    }
)  # fmt: skip


def project(node: JsonObject) -> JsonObject:
    """Turn a schema node (`kind`, `fields`, `optional_fields`, `items`) into JSON Schema; objects are closed."""
    kind = as_str(node.get("kind"))
    if kind in _SCALARS:
        return {"type": kind}
    if kind == "array":
        items = node.get("items")
        return {"type": "array", "items": project(as_object(items))} if items else {"type": "array"}
    if kind == "object":
        fields, optional = as_object(node.get("fields")), as_object(node.get("optional_fields"))
        properties: JsonObject = {name: project(as_object(field)) for name, field in {**fields, **optional}.items()}
        return {
            "type": "object",
            "properties": properties,
            "required": [*fields],
            "additionalProperties": False,
        }
    return {}


def json_instruction(schema: JsonObject) -> str:
    """Ask for JSON in words, for wires and models without a field for it."""
    return (
        "Answer with one JSON value and nothing else: no prose, no code fence. "
        f"It must be valid under this JSON Schema:\n{encode(schema).decode()}"
    )


def strict(schema: JsonObject) -> JsonObject | None:
    """Return the schema in strict form, or None when that would change what it accepts."""
    if not schema or not _STRICT_KEYWORDS.issuperset(schema):
        return None
    made: JsonObject = dict(schema)
    if schema.get("type") == "object":
        properties = as_object(schema.get("properties"))
        if set(map(str, as_list(schema.get("required")))) != set(properties):
            return None
        if schema.get("additionalProperties", False) is not False:
            return None
        strict_properties: JsonObject = {}
        for name, value in properties.items():
            inner = strict(as_object(value))
            if inner is None:
                return None
            strict_properties[name] = inner
        made |= {"properties": strict_properties, "required": [*properties], "additionalProperties": False}
    elif schema.get("type") == "array":
        inner = strict(as_object(schema.get("items")))
        if inner is None:
            return None
        made["items"] = inner
    elif not {"type", "enum", "const", "anyOf"} & schema.keys():
        return None
    return _with_strict_variants(made)


def _with_strict_variants(schema: JsonObject) -> JsonObject | None:
    variants: list[JsonValue] = []
    for variant in as_list(schema.get("anyOf")):
        inner = strict(as_object(variant))
        if inner is None:
            return None
        variants.append(inner)
    return {**schema, "anyOf": variants} if variants else schema
