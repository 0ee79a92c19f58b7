from __future__ import annotations

from collections.abc import Callable

import pytest

from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.tools.output import EmitOutput
from kheish.tools.planning import TodoWrite
from kheish.tools.protocol import OutputEmitted, TodosWritten, Tool
from tests.tools.conftest import Bench

pytestmark = pytest.mark.anyio

Benches = Callable[[Tool], Bench]


async def test_todo_write_replaces_the_list_and_fills_the_defaults(bench: Benches) -> None:
    outcome = await bench(TodoWrite()).run(
        todos=[{"content": "read"}, {"id": "w", "content": "write", "completed": True}]
    )

    todos: list[JsonObject] = [
        {"id": "todo-1", "content": "read", "completed": False},
        {"id": "w", "content": "write", "completed": True},
    ]
    assert outcome.output == {"todos": todos}
    assert outcome.effects == (TodosWritten(todos=tuple(todos)),)


async def test_an_empty_todo_list_clears_it(bench: Benches) -> None:
    outcome = await bench(TodoWrite()).run(todos=[])

    assert (outcome.output, outcome.effects) == ({"todos": []}, (TodosWritten(todos=()),))


@pytest.mark.parametrize(
    ("todos", "message"),
    [
        ([{"content": " "}], "`todos[0].content` must not be blank"),
        ([{"content": "a", "id": ""}], "`todos[0].id` must not be blank"),
        ([{"content": "a", "id": "todo-2"}, {"content": "b"}], "two todos have the id 'todo-2'"),
        ([{"id": "a"}], "invalid input: missing required field `todos[0].content`"),
        ([{"content": "a", "done": True}], "invalid input: unknown field `todos[0].done`"),
    ],
)
async def test_a_bad_todo_is_refused_by_name(bench: Benches, todos: list[JsonValue], message: str) -> None:
    assert await bench(TodoWrite()).error(todos=todos) == message


async def test_emit_output_with_content_is_a_visible_output(bench: Benches) -> None:
    outcome = await bench(EmitOutput()).run(content="x")

    part: JsonObject = {"type": "text", "text": "x"}
    assert outcome.output == {"content": "x", "parts": [part], "artifacts": []}
    assert outcome.effects == (OutputEmitted(content="x", parts=(part,)),)


async def test_emit_output_drops_blank_parts_and_says_the_rest_as_plain_text(bench: Benches) -> None:
    parts: list[JsonValue] = [{"type": "text", "text": text} for text in ("one", "  ", "two")]

    output = await bench(EmitOutput()).output(parts=parts)

    assert output == {"content": "one\ntwo", "parts": [parts[0], parts[2]], "artifacts": []}


async def test_emit_output_keeps_the_content_beside_parts_with_text(bench: Benches) -> None:
    output = await bench(EmitOutput()).output(content="short", parts=[{"type": "text", "text": "long"}])

    assert output == {"content": "short", "parts": [{"type": "text", "text": "long"}], "artifacts": []}


@pytest.mark.parametrize(
    "fields", [{}, {"content": " \n"}, {"parts": []}, {"content": "", "parts": [{"type": "text", "text": "\t"}]}]
)
async def test_emit_output_of_nothing_is_an_error(bench: Benches, fields: JsonObject) -> None:
    assert "nothing to show" in await bench(EmitOutput()).error(**fields)


async def test_emit_output_does_not_offer_what_does_not_exist_yet(bench: Benches) -> None:
    asset: JsonValue = [{"type": "asset", "text": "a"}]

    assert "expected one of text" in await bench(EmitOutput()).error(parts=asset)
    assert "unknown field `artifact_ids`" in await bench(EmitOutput()).error(artifact_ids=["a"])
