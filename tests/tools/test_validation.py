"""Tool input against its schema: an independent JSON Schema validator says the same."""

from __future__ import annotations

import math
import re
from typing import cast

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.tools.builtin import builtin_tools
from kheish.tools.limits import ToolRuntimeLimits
from kheish.tools.protocol import ToolCall
from kheish.tools.registry import ToolRegistry
from kheish.tools.runtime import ToolRuntime
from kheish.tools.validation import first_error, normalised

NAMES = st.sampled_from(["a", "b", "c", "path"])
NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
SCALARS: st.SearchStrategy[JsonValue] = st.none() | st.booleans() | NUMBERS | st.text(max_size=4)
VALUES: st.SearchStrategy[JsonValue] = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=8
)
KINDS: list[JsonObject] = [
    {},
    {"type": "string"},
    {"type": "number"},
    {"type": "integer"},
    {"type": "boolean"},
    {"type": "object"},
    {"type": "array"},
    {"type": "string", "enum": ["text", "image"]},
]


def _object(fields: dict[str, JsonObject], required: list[str]) -> JsonObject:
    return {
        "type": "object",
        "properties": {**fields},
        "required": [name for name in required if name in fields],
        "additionalProperties": False,
    }


def _objects(inner: st.SearchStrategy[JsonObject]) -> st.SearchStrategy[JsonObject]:
    fields = st.dictionaries(NAMES, inner, max_size=3)
    return st.builds(_object, fields, st.lists(NAMES, max_size=2, unique=True))


SCHEMAS = _objects(
    st.recursive(
        st.sampled_from(KINDS),
        lambda inner: (
            st.builds(lambda items: cast("JsonObject", {"type": "array", "items": items}), inner) | _objects(inner)
        ),
        max_leaves=5,
    )
)


ODD: st.SearchStrategy[JsonValue] = st.sampled_from([None, True, 0, 1.0, 2.5, "", "texts", [], {}])


def nearly(schema: JsonObject, odd: st.SearchStrategy[JsonValue]) -> st.SearchStrategy[JsonValue]:
    """Values that the schema allows, with ``odd`` ones at any depth."""
    return _plain(schema, odd) | odd


def fitting(schema: JsonObject) -> st.SearchStrategy[JsonValue]:
    return nearly(schema, st.nothing())


def _plain(schema: JsonObject, odd: st.SearchStrategy[JsonValue]) -> st.SearchStrategy[JsonValue]:
    match schema:
        case {"enum": [*choices]}:
            return st.sampled_from(choices)
        case {"type": "string"}:
            return st.text(max_size=4)
        case {"type": "number"}:
            return NUMBERS
        case {"type": "integer"}:
            return st.integers(-(2**53), 2**53)
        case {"type": "boolean"}:
            return st.booleans()
        case {"type": "array"}:
            return st.lists(nearly(cast("JsonObject", schema.get("items", {})), odd), max_size=3)
        case {"type": "object", "properties": dict(properties), "required": [*required]}:
            wanted = [str(name) for name in required]
            known = {name: nearly(cast("JsonObject", field), odd) for name, field in properties.items()}
            # Null never stands for a required field.
            present = {name: known[name].filter(lambda value: value is not None) for name in wanted}
            left_out = {name: value | st.none() for name, value in known.items() if name not in wanted}
            return st.fixed_dictionaries(present, optional=left_out)
        case {"type": "object"}:
            return st.dictionaries(NAMES, VALUES, max_size=3)
    return VALUES


def without_left_out(schema: JsonObject, value: JsonValue) -> JsonValue:
    """Null in a declared field means that it was left out: JSON Schema wants it absent then."""
    match schema, value:
        case {"properties": dict() as properties}, dict():
            return {
                name: without_left_out(cast("JsonObject", properties.get(name, {})), item)
                for name, item in value.items()
                if name not in properties or item is not None
            }
        case {"items": dict() as items}, list():
            return [without_left_out(items, item) for item in value]
    return value


def allowed(schema: JsonObject, value: JsonValue) -> bool:
    return jsonschema_rs.validator_for(schema).is_valid(without_left_out(schema, value))


@given(schema=SCHEMAS, data=st.data())
def test_what_a_schema_allows_has_no_error(schema: JsonObject, data: st.DataObject) -> None:
    value = data.draw(fitting(schema))

    assert allowed(schema, value)
    assert first_error(schema, normalised(value)) is None


@given(schema=SCHEMAS, data=st.data())
def test_an_error_is_found_exactly_where_an_independent_validator_finds_one(
    schema: JsonObject, data: st.DataObject
) -> None:
    value = data.draw(nearly(schema, ODD) | st.dictionaries(NAMES, VALUES, max_size=3))

    assert (first_error(schema, normalised(value)) is None) == allowed(schema, value)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@given(data=st.data())
def test_every_kind_of_field_takes_its_own_values_only(kind: JsonObject, data: st.DataObject) -> None:
    schema = _object({"one": kind, "many": {"type": "array", "items": kind}}, [])
    value = data.draw(nearly(schema, ODD))

    assert (first_error(schema, normalised(value)) is None) == allowed(schema, value)


@given(schema=SCHEMAS, name=NAMES, data=st.data())
def test_the_error_names_the_field_that_is_wrong(schema: JsonObject, name: str, data: st.DataObject) -> None:
    value = cast("JsonObject", data.draw(fitting(schema)))
    wrong = {**value, name: data.draw(VALUES)}

    error = first_error(schema, normalised(wrong))

    assert error is None or re.match(rf"((unknown|missing required) field `)?{name}[:.\[`]", error)


@given(value=VALUES)
def test_only_the_spelling_of_numbers_changes(value: JsonValue) -> None:
    once = normalised(value)

    assert once == value
    assert normalised(once) == once
    assert not any(number.is_integer() and abs(number) <= 2**53 for number in _floats(once))


def _floats(value: JsonValue) -> list[float]:
    match value:
        case float():
            return [value]
        case list():
            return [number for item in value for number in _floats(item)]
        case dict():
            return [number for item in value.values() for number in _floats(item)]
    return []


@pytest.mark.parametrize("number", [2.5, 1e300, -1e16, math.pi])
def test_a_number_that_is_no_count_stays_as_it_is(number: float) -> None:
    assert repr(normalised({"n": [number]})) == repr({"n": [number]})


RUNTIME = ToolRuntime(ToolRegistry(builtin_tools({})))
TOOL_FIELDS = sorted(
    {str(name) for spec in RUNTIME.specs() for name in cast("JsonObject", spec.input_schema["properties"])}
)


@given(name=st.sampled_from(RUNTIME.names), fields=st.dictionaries(st.sampled_from([*TOOL_FIELDS, "other"]), VALUES))
def test_no_input_breaks_admission_and_what_is_admitted_fits_the_schema(name: str, fields: JsonObject) -> None:
    refused = RUNTIME.admit(ToolCall(id="c", name=name, input=fields), index_in_turn=0, limits=ToolRuntimeLimits())

    assert (refused is None) == allowed(RUNTIME.descriptor(name).schema, fields)
    if refused is not None:
        assert refused.is_error
        assert isinstance(refused.output, dict)
        assert refused.output["tool"] == name
