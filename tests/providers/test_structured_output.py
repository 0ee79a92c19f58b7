"""Whether a reply keeps the form that was asked of it, compared with an independent validator."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheish.core.jsonvalue import JsonObject
from kheish.providers.json_schemas import project
from kheish.providers.structured_output import fault_in

NAMES = st.sampled_from(("a", "b", "c"))
NODES = st.recursive(
    st.sampled_from(("any", "string", "number", "boolean")).map(lambda kind: {"kind": kind}),
    lambda inner: (
        st.fixed_dictionaries({"kind": st.just("array")}, optional={"items": inner})
        | st.fixed_dictionaries(
            {"kind": st.just("object")},
            optional={
                "fields": st.dictionaries(NAMES, inner, max_size=2),
                "optional_fields": st.dictionaries(NAMES, inner, max_size=2),
            },
        )
    ),
    max_leaves=6,
)
SCALARS = st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-5, 5) | st.text(max_size=3)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=8
)


def fitting(node: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that mostly fit a node, so that both verdicts are seen."""
    match node["kind"]:
        case "string":
            return st.text(max_size=3)
        case "number":
            return st.integers(-5, 5) | st.floats(-5, 5)
        case "boolean":
            return st.booleans()
        case "array":
            return st.lists(fitting(node["items"]) if "items" in node else VALUES, max_size=2)
        case "object":
            fields = {name: fitting(inner) for name, inner in node.get("fields", {}).items()}
            optional = {name: fitting(inner) for name, inner in node.get("optional_fields", {}).items()}
            return st.fixed_dictionaries(fields, optional={k: v for k, v in optional.items() if k not in fields})
    return VALUES


@given(data=st.data(), node=NODES)
def test_the_verdict_is_that_of_a_json_schema_validator(data: st.DataObject, node: JsonObject) -> None:
    shared = set(node.get("fields") or {}) & set(node.get("optional_fields") or {})  # type: ignore[arg-type]
    if shared:
        return  # which of the two counts is nobody's question
    value = data.draw(fitting(node) | VALUES)

    verdict = fault_in(json.dumps(value), node) is None

    assert verdict is jsonschema_rs.is_valid(project(node), value)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "the reply is not JSON"),
        ("```json\n{}\n```", "the reply is not JSON"),
        ("7", "the reply is not an object"),
        ("{}", "the reply lacks the field 'plan'"),
        ('{"plan": {"n": 1}}', "the field 'plan' is not an array"),
        ('{"plan": [{"n": 1}, {"n": "sk-SECRET"}]}', "the field 'n' is not a number"),
        ('{"plan": [7]}', "an item of the field 'plan' is not an object"),
        ('{"plan": [], "sk-SECRET": 1}', "the reply has a field that was not asked for"),
    ],
)
def test_the_fault_is_named_without_a_word_of_the_reply(text: str, fault: str) -> None:
    item: JsonObject = {"kind": "object", "fields": {"n": {"kind": "number"}}}
    node: JsonObject = {"kind": "object", "fields": {"plan": {"kind": "array", "items": item}}}

    assert fault_in(text, node) == fault
