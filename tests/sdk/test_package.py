"""What `import kheish` gives and costs, and how the response types come about."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, is_dataclass
from typing import Any

import pytest

import kheish
from kheish.sdk import types
from kheish.sdk.decoding import Wire
from kheish.sdk.errors import UnexpectedResponse
from tools import sdk_types


def test_every_exported_name_is_there_and_every_name_with_a_home_is_exported() -> None:
    assert sorted(kheish._HOME_OF) == sorted(kheish.__all__)
    assert all(getattr(kheish, name).__name__ == name for name in kheish.__all__)
    assert set(kheish.__all__) <= set(dir(kheish))
    with pytest.raises(AttributeError):
        kheish.nothing  # type: ignore[attr-defined]  # noqa: B018  # that is the point


def test_importing_the_package_loads_no_http_library_and_no_server() -> None:
    code = (
        "import sys, kheish; first = set(sys.modules); kheish.Kheish();"
        "print(sorted(n for n in first if n.startswith('kheish')));"
        "print(sorted(n for n in sys.modules if n.split('.')[0] in ('httpx2', 'fastapi', 'pydantic', 'asyncio')));"
        "print(sorted(n for n in sys.modules if n.startswith('kheish.') and not n.startswith('kheish.sdk')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["['kheish']", "[]", "[]"]


def test_every_response_type_is_frozen_and_slotted() -> None:
    for name in types.__all__:
        kind = getattr(types, name)
        assert is_dataclass(kind), name
        assert issubclass(kind, Wire), name
        assert not hasattr(kind.__new__(kind), "__dict__"), name


def document(**schemas: Any) -> dict[str, Any]:
    """An OpenAPI document with one operation, which answers with the first schema."""
    reference = {"$ref": f"#/components/schemas/{next(iter(schemas))}"}
    answer = {"200": {"content": {"application/json": {"schema": reference}}}}
    refusal = {"404": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}}}
    problem = {"type": "object", "title": "Problem", "properties": {"code": {"type": "string"}}}
    paths = {"/x": {"get": {"responses": {**answer, **refusal}}}}
    return {"paths": paths, "components": {"schemas": {**schemas, "Problem": problem}}}


def test_a_class_is_written_for_each_object_an_answer_is_made_of() -> None:
    null = {"type": "null"}
    state = {"type": "string", "title": "State", "enum": ["on", "off"]}
    part = {"type": "object", "title": "Part", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    whole = {
        "type": "object",
        "title": "Whole",
        "description": "All of it.",
        "required": ["id", "state", "parts", "note", "any"],
        "properties": {
            "id": {"type": "string"},
            "state": {"$ref": "#/components/schemas/State"},
            "parts": {"type": "array", "items": {"$ref": "#/components/schemas/Part"}},
            "note": {"anyOf": [{"type": "string"}, null]},
            "any": {},
            "ratio": {"anyOf": [{"type": "number"}, null], "default": None},
            "ids": {"anyOf": [{"type": "array", "items": {"type": "string"}}, null]},
            "part": {"anyOf": [{"$ref": "#/components/schemas/Part"}, null]},
            "free": {"anyOf": [{"type": "object", "additionalProperties": {}}, null]},
            "either": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
            "yes": {"type": "boolean", "default": True},
        },
    }
    unused = {"type": "object", "title": "Unused", "properties": {"n": {"type": "integer"}}}
    text = sdk_types.generate(document(Whole=whole, Part=part, State=state, Unused=unused))

    module: dict[str, Any] = {"__name__": types.__name__}
    exec(compile(text, "types.py", "exec"), module)
    assert module["__all__"] == ["Part", "Whole"]
    assert {each.name: each.type for each in fields(module["Whole"])} == {
        "extra": "JsonObject",
        "raw": "JsonObject",
        "id": "str",
        "state": "str",
        "parts": "tuple[Part, ...]",
        "note": "str | None",
        "any": "JsonValue",
        "ratio": "float | None",
        "ids": "tuple[str, ...]",
        "part": "Part | None",
        "free": "JsonObject",
        "either": "JsonValue",
        "yes": "bool",
    }
    assert '"""All of it."""' in text
    assert '"""One of on, off."""' in text


def test_a_field_whose_name_is_a_keyword_stops_the_generator() -> None:
    schema = {"type": "object", "title": "Bad", "properties": {"class": {"type": "string"}}}
    with pytest.raises(ValueError, match=r"Bad\.class"):
        sdk_types.generate(document(Bad=schema))


def test_a_type_reads_its_fields_and_names_the_one_that_is_wrong() -> None:
    pagination = {"limit": 2, "total_count": 5, "has_more": True, "next_cursor": "x", "order": "asc", "later": 1}
    read = types.Pagination.from_json(pagination)  # type: ignore[arg-type]  # plain JSON
    assert (read.limit, read.next_cursor, read.extra, read.raw) == (2, "x", {"later": 1}, pagination)
    for wrong in ({**pagination, "limit": True}, {**pagination, "limit": None}, {**pagination, "limit": 2.5}):
        with pytest.raises(UnexpectedResponse, match="limit"):
            types.Pagination.from_json(wrong)  # type: ignore[arg-type]  # plain JSON
