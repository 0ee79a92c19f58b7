"""Write the SDK's response types from the daemon's OpenAPI document: python -m tools.sdk_types [--check]"""

from __future__ import annotations

import difflib
import keyword
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeAlias, cast

TARGET = Path(__file__).resolve().parent.parent / "src" / "kheish" / "sdk" / "types.py"
LINE_LENGTH = 120
Schema: TypeAlias = "dict[str, object]"

HEADER = '''"""What the daemon answers with. Written by `python -m tools.sdk_types`; do not edit.

Fields that the daemon leaves out when empty are None or an empty tuple. `extra` holds fields this client does not know,
`raw` the object exactly as it was received. Strings that name a state may take values that are not known yet.
"""

from __future__ import annotations

from dataclasses import dataclass{field}

from kheish.sdk.decoding import Wire
from kheish.sdk.jsonvalue import {json}

'''

_OPTION: Schema = {
    "type": "object",
    "description": "One choice of a question.",
    "required": ["id", "label"],
    "properties": {
        "id": {"type": "string"},
        "label": {"type": "string"},
        "description": {"type": "string"},
        "preview": {"type": "string"},
    },
}
_QUESTION: Schema = {
    "type": "object",
    "description": "One question of a request; without options it is answered by text.",
    "required": ["id", "header", "question", "options"],
    "properties": {
        "id": {"type": "string"},
        "header": {"type": "string"},
        "question": {"type": "string"},
        "options": {"type": "array", "items": {"$ref": "#/components/schemas/QuestionOption"}},
        "multi_select": {"type": "boolean", "default": False},
    },
}
ADDED: dict[str, Schema] = {"Question": _QUESTION, "QuestionOption": _OPTION}
"""Objects the document leaves open but the contract names."""
REFINED: dict[tuple[str, str], Schema] = {
    ("UserQuestionRequest", "questions"): {"type": "array", "items": {"$ref": "#/components/schemas/Question"}}
}
OPEN = frozenset({"GenerationConfig", "MaterialisedSession"})
"""Objects that stay plain JSON: callers pass them on, or read them for debugging."""


def generate(document: Mapping[str, object]) -> str:
    """The text of types.py for this OpenAPI document."""
    schemas = {**ADDED, **_schemas(document)}
    wanted = sorted(name for name in _answered(document, schemas) if _is_object(schemas[name]))
    body = "".join(_class(name, schemas[name], schemas) for name in wanted)
    exported = ",\n".join(f'    "{_class_name(name)}"' for name in wanted)
    json_names = [name for name in ("JsonObject", "JsonValue") if name in body]
    header = HEADER.format(field=", field" if "field(" in body else "", json=", ".join(json_names))
    return f"{header}__all__ = [\n{exported},\n]\n{body}"


def _schemas(document: Mapping[str, object]) -> dict[str, Schema]:
    components = cast("dict[str, dict[str, Schema]]", document["components"])
    return components["schemas"]


def _answered(document: Mapping[str, object], schemas: Mapping[str, Schema]) -> set[str]:
    """The schemas that successful answers are made of."""
    found: set[str] = set()
    paths = cast("dict[str, dict[str, Schema]]", document["paths"])
    for operations in paths.values():
        for operation in operations.values():
            responses = cast("dict[str, object]", operation.get("responses", {}))
            for status, response in responses.items():
                if status.startswith("2"):
                    _collect(response, schemas, found)
    return found


def _collect(node: object, schemas: Mapping[str, Schema], found: set[str]) -> None:
    if isinstance(node, list):
        for item in node:
            _collect(item, schemas, found)
    if not isinstance(node, dict):
        return
    name = _referred(node)
    if name is not None and name not in found:
        found.add(name)
        if str(schemas[name].get("title")) in OPEN:
            return
        _collect(_refined(name, schemas[name]), schemas, found)
    for value in node.values():
        _collect(value, schemas, found)


def _refined(name: str, schema: Schema) -> Schema:
    properties = dict(cast("dict[str, Schema]", schema.get("properties", {})))
    for owner, key in REFINED:
        if owner == name and key in properties:
            properties[key] = REFINED[owner, key]
    return {**schema, "properties": properties}


def _referred(schema: Mapping[str, object]) -> str | None:
    reference = schema.get("$ref")
    return reference.rpartition("/")[2] if isinstance(reference, str) else None


def _is_object(schema: Schema) -> bool:
    """Whether it becomes a class; pages do not, the client walks them."""
    title = str(schema.get("title", ""))
    named = bool(schema.get("properties")) and title not in OPEN and not title.endswith("Page")
    return schema.get("type") == "object" and named


def _class_name(name: str) -> str:
    return re.sub(r"\W", "", name.removesuffix("-Output"))


def _class(name: str, schema: Schema, schemas: Mapping[str, Schema]) -> str:
    shown = _class_name(name)
    refined = _refined(name, schema)
    required = set(cast("list[str]", schema.get("required", [])))
    properties = cast("dict[str, Schema]", refined["properties"])
    lines = ["", "", "@dataclass(frozen=True, kw_only=True, slots=True)", f"class {shown}(Wire):"]
    body = _docstring(str(schema.get("description") or ""))
    for key, value in properties.items():
        if keyword.iskeyword(key):
            raise ValueError(f"{shown}.{key}: a field cannot have this name")
        core, nullable = _without_null(value)
        annotation, default = _typed(core, key in required and not nullable, schemas)
        body.append(f"{key}: {annotation}" + ("" if default is None else f" = {default}"))
        body += _docstring(_note(value, core, schemas), spaced=False)
    lines += [f"    {line}".rstrip() for line in body]
    return "\n".join(lines) + "\n"


def _docstring(text: str, *, spaced: bool = True) -> list[str]:
    if not text.strip():
        return []
    wrapped = textwrap.wrap(" ".join(text.split()), LINE_LENGTH - 14)
    body = [f'"""{wrapped[0]}"""'] if len(wrapped) == 1 else [f'"""{wrapped[0]}', *wrapped[1:], '"""']
    return [*body, ""] if spaced else body


def _note(schema: Schema, core: Schema, schemas: Mapping[str, Schema]) -> str:
    notes = [str(schema["description"])] if "description" in schema else []
    name = _referred(core)
    values = cast("list[object]", (schemas[name] if name is not None else core).get("enum", []))
    if values:
        notes.append(f"One of {', '.join(map(str, values))}.")
    return " ".join(notes)


def _typed(core: Schema, must: bool, schemas: Mapping[str, Schema]) -> tuple[str, str | None]:
    """Annotation and default of a field."""
    name = _referred(core)
    if name is not None and not _is_object(schemas[name]):
        return _typed(schemas[name], must, schemas)
    if name is not None:
        return (_class_name(name), None) if must else (f"{_class_name(name)} | None", "None")
    match core.get("type"):
        case "array":
            item = _item(cast("Schema", core.get("items", {})), schemas)
            return f"tuple[{item}, ...]", None if must else "()"
        case "object":
            return "JsonObject", None if must else "field(default_factory=dict)"
        case "boolean":
            return "bool", None if must else str(bool(core.get("default", False)))
        case "string" | "integer" | "number" as kind:
            python = {"string": "str", "integer": "int", "number": "float"}[kind]
            return (python, None) if must else (f"{python} | None", "None")
        case _:
            return "JsonValue", "None"


def _item(schema: Schema, schemas: Mapping[str, Schema]) -> str:
    """Annotation of a list's items."""
    core, _ = _without_null(schema)
    name = _referred(core)
    if name is not None and _is_object(schemas[name]):
        return _class_name(name)
    kind = (schemas[name] if name is not None else core).get("type")
    return {"string": "str", "object": "JsonObject"}.get(str(kind), "JsonValue")


def _without_null(schema: Schema) -> tuple[Schema, bool]:
    options = cast("list[Schema] | None", schema.get("anyOf"))
    if options is None:
        return schema, False
    kept = [option for option in options if option.get("type") != "null"]
    # A union of several shapes stays plain JSON.
    return (kept[0] if len(kept) == 1 else {}), len(kept) < len(options)


def _differences(committed: str, generated: str) -> Iterator[str]:
    yield from difflib.unified_diff(
        committed.splitlines(keepends=True), generated.splitlines(keepends=True), "committed", "generated", n=1
    )


def main(arguments: list[str]) -> int:
    """Write the module, or with --check say how it differs from what would be written."""
    from kheish.daemon.openapi import document  # the document needs the whole server; only this function does

    generated = generate(document())
    if "--check" not in arguments:
        TARGET.write_text(generated, encoding="utf-8")
        return 0
    committed = TARGET.read_text(encoding="utf-8") if TARGET.exists() else ""
    if committed == generated:
        return 0
    sys.stderr.writelines(_differences(committed, generated))
    print(
        "src/kheish/sdk/types.py is not what the OpenAPI document says: run python -m tools.sdk_types", file=sys.stderr
    )
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
