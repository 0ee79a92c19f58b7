from __future__ import annotations

import asyncio
import json
import re
import tomllib
from pathlib import Path

import pytest

from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.core.messages import (
    FinishReason,
    Generation,
    Message,
    OpaquePart,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    ToolSpec,
    Usage,
    user_text,
)
from kheish.providers.protocol import ErrorKind, ModelReply, ModelRequest, ProviderError, TextDelta
from kheish.providers.routes_file import load_routes
from kheish.providers.script_file import parse_script
from kheish.providers.scripted import ScriptedProvider
from kheish.providers.tables import RoutesError

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]


def request(
    *messages: Message, tools: tuple[str, ...] = (), model: str = "m", limit: int | None = None
) -> ModelRequest:
    return ModelRequest(
        model=model,
        system=("You help.", "Be short."),
        messages=messages,
        tools=tuple(ToolSpec(name=name, description="", input_schema={}) for name in tools),
        generation=Generation(max_output_tokens=limit),
    )


def said(text: str = "", *calls: str) -> Message:
    parts = tuple(ToolCallPart(call_id=f"c{n}", name=name, input={}) for n, name in enumerate(calls))
    return Message(role=Role.ASSISTANT, parts=(TextPart(text=text), *parts))


def result(tool: str, output: JsonValue, *, is_error: bool = False) -> Message:
    return Message(role=Role.TOOL, parts=(ToolResultPart(call_id="c0", name=tool, output=output, is_error=is_error),))


async def answer(script: JsonObject, made: ModelRequest) -> tuple[list[TextDelta], ModelReply]:
    deltas: list[TextDelta] = []
    async for event in ScriptedProvider(parse_script(script)).stream(made):
        if isinstance(event, ModelReply):
            return deltas, event
        deltas.append(event)
    raise AssertionError("no reply")


async def text_of(script: JsonObject, *messages: Message, tools: tuple[str, ...] = ()) -> str:
    _, reply = await answer(script, request(*messages, tools=tools))
    return "".join(part.text for part in reply.parts if isinstance(part, TextPart))


async def quoted(template: str, *messages: Message) -> str:
    return await text_of({"rules": [{"text": template}]}, *messages)


async def test_text_is_streamed_in_pieces_and_comes_whole_in_the_reply() -> None:
    deltas, reply = await answer(
        {"chunk_chars": 4, "rules": [{"text": ["hello world", "more"], "usage": {"input_tokens": 3}}]},
        request(user_text("hi")),
    )

    assert [(delta.part, delta.text) for delta in deltas] == [(0, "hell"), (0, "o wo"), (0, "rld"), (1, "more")]
    assert reply == ModelReply(
        parts=(TextPart(text="hello world"), TextPart(text="more")),
        finish_reason=FinishReason.COMPLETED,
        usage=Usage(input_tokens=3),
    )


async def test_several_calls_with_quoted_arguments_keep_their_json_types() -> None:
    script: JsonObject = {
        "rules": [
            {
                "when": {"user": {"regex": r"(?i)read (?P<file>\S+) (\d+) times"}},
                "thought": "two calls",
                "text": "Reading ${match.file}.",
                "calls": [
                    {"tool": "read_file", "input": {"path": "${match.file}", "tags": ["${result.tags}", 1, None]}},
                    {
                        "tool": "bash",
                        "id": "mine",
                        "input": {"command": "echo '$${HOME}' ${match.2}", "opts": {"n": 2.5}},
                    },
                    {"tool": "bash", "invalid_arguments": "{oops"},
                ],
            }
        ]
    }
    _, reply = await answer(script, request(result("x", {"tags": ["a"]}), user_text("please READ a.txt 3 times")))

    assert reply.parts == (
        OpaquePart(driver="scripted", data={"thought": "two calls"}),
        TextPart(text="Reading a.txt."),
        ToolCallPart(
            call_id="",
            name="read_file",
            input={"path": "a.txt", "tags": [["a"], 1, None]},
            provider_call_id="scripted_0_3",
        ),
        ToolCallPart(
            call_id="", name="bash", input={"command": "echo '${HOME}' 3", "opts": {"n": 2.5}}, provider_call_id="mine"
        ),
        ToolCallPart(
            call_id="",
            name="bash",
            input={},
            provider_call_id="scripted_0_5",
            invalid_input="the arguments are not a JSON object",
        ),
    )
    assert reply.finish_reason is FinishReason.TOOL_CALLS


async def test_the_turn_is_counted_from_the_last_user_message() -> None:
    script: JsonObject = {
        "rules": [
            {"when": {"turn": 0, "user_turn": 2}, "text": "second question"},
            {"when": {"turn": 0}, "text": "start"},
            {"when": {"turn": [1, 2]}, "text": "middle"},
            {"when": {"turn": {"min": 3}}, "text": "end after ${turn}"},
        ]
    }
    turn = (said("", "x"), result("x", 1))

    assert await text_of(script, user_text("q")) == "start"
    assert await text_of(script, user_text("q"), *turn) == "middle"
    assert await text_of(script, user_text("q"), *turn, *turn, *turn) == "end after 3"
    assert await text_of(script, user_text("q"), *turn, said("done"), user_text("again")) == "second question"


async def test_branches_look_at_the_results_of_the_last_turn_only() -> None:
    script: JsonObject = {
        "rules": [
            {"when": {"result": {"tool": "bash", "is_error": True}}, "text": "it failed"},
            {"when": {"result": [{"contains": "README"}, {"regex": "LICEN[CS]E"}]}, "text": "both"},
            {"when": {"result": "README"}, "text": "one"},
            {"when": {"any_result": {"tool": "bash"}, "no_result": {"tool": "write_file"}}, "text": "ran before"},
        ],
        "fallback": {"text": "nothing of that"},
    }
    ask = user_text("go")

    assert await text_of(script, ask, said("", "bash"), result("bash", "boom", is_error=True)) == "it failed"
    assert await text_of(script, ask, said(), result("ls", ["README"]), result("ls", ["LICENSE"])) == "both"
    assert await text_of(script, ask, said(), result("ls", {"names": ["README"]})) == "one"
    before = (said("", "bash"), result("bash", "README"))
    assert await text_of(script, ask, *before, said(), result("ls", [])) == "ran before"
    assert await text_of(script, ask, *before, said(), result("write_file", 1)) == "nothing of that"


async def test_the_other_conditions() -> None:
    script: JsonObject = {
        "rules": [
            {"when": {"model": {"equals": "big"}}, "text": "big model"},
            {"when": {"system": "Nobody"}, "text": "never"},
            {"when": {"max_output_tokens": {"max": 100}}, "text": "short"},
            {"when": {"tools": ["bash"], "without_tools": ["read_file"]}, "text": "bash only"},
            {"when": {"assistant": "I promise"}, "text": "promised"},
            {"when": {"any_user": "password", "system": {"contains": ["help", "short"]}}, "text": "remembered"},
        ],
        "fallback": {"text": "other"},
    }

    async def reply(made: ModelRequest) -> str:
        _, found = await answer(script, made)
        return "".join(part.text for part in found.parts if isinstance(part, TextPart))

    hello = user_text("hello")
    assert await reply(request(hello, model="big")) == "big model"
    assert await reply(request(hello, limit=100)) == "short"
    assert await reply(request(hello, limit=101)) == "other"
    assert await reply(request(hello, tools=("bash",))) == "bash only"
    assert await reply(request(hello, tools=("bash", "read_file"))) == "other"
    assert await reply(request(hello, said("I promise"), hello)) == "promised"
    assert await reply(request(user_text("password: x"), said("ok"), hello)) == "remembered"


RESULTS = (
    user_text("first"),
    said("", "ls"),
    result("ls", {"paths": ["a", "b", "c"], "total": 3, "odd key": True}),
    result("bash", {"stdout": "one\ntwo\n", "exit_code": 0}),
    said("", "ls"),
    result("ls", '{"paths": ["z"]}'),
    result("list", [["x"], 2]),
    user_text("last"),
)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("${user}/${user[0]}/${user[-1]}", "last/first/last"),
        ("${result}", '[["x"],2]'),
        ("${result[-1][0][0]}", "x"),
        ("${result[0].paths[1]}", "b"),
        ("${result:ls.paths}", '["z"]'),
        ("${result:ls[0].paths}", '["a","b","c"]'),
        ('${result:ls[0]["odd key"]}', "true"),
        ("${results:ls | length}", "2"),
        ("${result:bash.stdout | trim}", "one\ntwo"),
        ("${result:bash.stdout | bullets}", "- one\n- two"),
        ("${result:ls[0].paths | bullets}", "- a\n- b\n- c"),
        ("${result:ls[0].paths | join:+}", "a+b+c"),
        ("${result:ls[0].paths | head:2 | join}", "a, b"),
        ("${result:bash.stdout | lines | json}", '["one","two"]'),
        ("${result:ls[0].total}", "3"),
        ("${result:none.x ?? nothing}", "nothing"),
        ("${model} ${tools} ${turn}", "m [] 0"),
        ("${system}", "You help.\n\nBe short."),
        ("costs $5 and $${x}", "costs $5 and ${x}"),
    ],
)
async def test_quotations(template: str, expected: str) -> None:
    assert await quoted(template, *RESULTS) == expected


@pytest.mark.parametrize("template", ["${result:none}", "${result:ls.nope}", "${result:list[0][7]}", "${match.x}"])
async def test_quoting_what_is_not_there_is_an_error_that_names_rule_and_quote(template: str) -> None:
    with pytest.raises(ProviderError, match=r"script: rule 1: \$\{.*\} is not there") as caught:
        await quoted(template, *RESULTS)

    assert (caught.value.kind, caught.value.retryable) == (ErrorKind.INVALID_REQUEST, False)


async def test_a_request_no_rule_fits_is_an_error_unless_a_fallback_is_written() -> None:
    rules: JsonObject = {"rules": [{"when": {"user": "x"}, "text": "x"}]}

    with pytest.raises(ProviderError, match="no rule holds for turn 0 of user message 1, and there is no fallback"):
        await text_of(rules, user_text("y"))
    assert await text_of({**rules, "fallback": {"text": "You said: ${user}"}}, user_text("y")) == "You said: y"


async def test_an_error_can_come_after_some_text() -> None:
    script: JsonObject = {
        "rules": [{"text": "half", "error": {"kind": "rate_limited", "status": 429, "retry_after_ms": 5}}]
    }
    seen: list[TextDelta | ModelReply] = []

    async def consume() -> None:
        async for event in ScriptedProvider(parse_script(script)).stream(request(user_text("x"))):
            seen.append(event)

    with pytest.raises(ProviderError) as caught:
        await consume()

    assert seen == [TextDelta(text="half")]
    error = caught.value
    assert (error.message, error.kind) == (
        "scripted request failed: HTTP 429, kind=rate_limited",
        ErrorKind.RATE_LIMITED,
    )
    assert (error.retryable, error.status, error.retry_after_ms) == (True, 429, 5)


async def test_a_hanging_reply_sends_its_text_and_ends_only_when_cancelled() -> None:
    script = parse_script({"rules": [{"text": "wait", "hang": True}]})
    arrived = asyncio.Event()

    async def consume() -> None:
        async for _ in ScriptedProvider(script).stream(request(user_text("x"))):
            arrived.set()

    task = asyncio.create_task(consume())
    async with asyncio.timeout(5):
        await arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_the_same_request_always_gets_the_same_answer() -> None:
    provider = ScriptedProvider(parse_script({"rules": [{"text": "${user}", "calls": [{"tool": "x"}]}]}))
    made = request(user_text("again"))

    first, second = [[event async for event in provider.stream(made)] for _ in range(2)]

    assert first == second


async def test_a_scripted_route_reads_its_script_beside_the_routes_file(tmp_path: Path) -> None:
    routes = '[routes.s]\ndriver = "scripted"\ndefault_model = "demo"\nscript = "scripts/%s"\n'
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "one.toml").write_text('[[rules]]\nwhen = { user = "hi" }\ntext = "from toml"\n')
    (tmp_path / "scripts" / "two.json").write_text(json.dumps({"rules": [{"text": "from json"}]}))
    texts = []
    for name in ("one.toml", "two.json"):
        (tmp_path / "routes.toml").write_text(routes % name)
        route = load_routes(tmp_path / "routes.toml", {}).routes[0]
        assert route.script is not None
        events = [event async for event in ScriptedProvider(route.script).stream(request(user_text("hi")))]
        texts.append(events[-1].parts[0].text if isinstance(events[-1], ModelReply) else None)  # type: ignore[union-attr]  # the part is a text

    assert texts == ["from toml", "from json"]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ({}, "rules: at least one rule or a fallback"),
        ([], "must be a table"),
        ({"rules": [{"text": "x"}], "ruels": 1}, "unknown key 'ruels'"),
        ({"version": 2, "fallback": {"text": ""}}, "version: must be 1"),
        ({"rules": [{"text": "x"}, {"name": "b", "txt": "x"}]}, "rule 2 \"b\": unknown key 'txt'"),
        ({"rules": [{"when": {"turn": 0}}]}, "rule 1: a reply needs one of"),
        ({"rules": [{"text": 1}]}, "rule 1: text: must be a string"),
        ({"rules": [{"text": "${nope}"}]}, "rule 1: text: .* must begin with one of"),
        ({"rules": [{"text": "${user.}"}]}, "rule 1: text: a path is made of"),
        ({"rules": [{"text": "${user"}]}, "rule 1: text: a \\${ is not closed"),
        ({"rules": [{"text": "${user | nope}"}]}, "rule 1: text: a filter must be one of"),
        ({"rules": [{"text": "${user:x}"}]}, "takes no tool name"),
        ({"rules": [{"text": "${match[0]}"}]}, "takes no index"),
        ({"rules": [{"text": "${user | head:x}"}]}, "head takes a number"),
        ({"rules": [{"calls": [{"tool": "x"}, {"input": {}}]}]}, "rule 1: calls 2: tool: is required"),
        ({"rules": [{"calls": [{"tool": "x", "input": {"a": {"b": "${z}"}}}]}]}, "calls 1: input: "),
        ({"rules": [{"calls": [{"tool": "x", "input": 1}]}]}, "calls 1: input: must be a table"),
        ({"rules": [{"parts": [{"tool": "x"}], "text": "x"}]}, "parts: cannot be combined with text"),
        ({"rules": [{"parts": [{}]}]}, "parts 1: needs one of text, thought, tool"),
        ({"rules": [{"when": {"user": {"regex": "("}}, "text": "x"}]}, "when: user: regex: is not a valid"),
        ({"rules": [{"when": {"users": "x"}, "text": "x"}]}, "rule 1: when: unknown key 'users'"),
        ({"rules": [{"when": {"turn": "0"}, "text": "x"}]}, "when: turn: must be a number"),
        ({"rules": [{"when": {"result": {"tol": "x"}}, "text": "x"}]}, "when: result: unknown key 'tol'"),
        ({"rules": [{"error": {"status": 500}}]}, "rule 1: error: kind: is required"),
        ({"rules": [{"error": {"kind": "bad"}}]}, "error: kind: must be one of context_window_exceeded"),
        ({"rules": [{"text": "x", "finish_reason": "stop"}]}, "finish_reason: must be one of completed"),
        ({"rules": [{"text": "x", "delay_ms": -1}]}, "delay_ms: must be at least 0"),
        ({"fallback": {"text": "x", "chunk_chars": 0}}, "fallback: chunk_chars: must be at least 1"),
    ],
)
def test_a_broken_script_names_the_rule_and_the_key(script: object, message: str) -> None:
    with pytest.raises(RoutesError, match=message):
        parse_script(script)


def test_a_script_that_cannot_be_read_names_route_and_file(tmp_path: Path) -> None:
    (tmp_path / "routes.toml").write_text('[routes.s]\ndriver = "scripted"\ndefault_model = "m"\nscript = "s.json"\n')
    with pytest.raises(RoutesError, match=r"route 's': script: .*s\.json: No such file"):
        load_routes(tmp_path / "routes.toml", {})
    (tmp_path / "s.json").write_text('{"rules": [sk-SECRET]}')
    with pytest.raises(RoutesError, match=r"route 's': script .*s\.json: not valid JSON") as caught:
        load_routes(tmp_path / "routes.toml", {})
    assert "SECRET" not in caught.value.detail


def test_every_example_of_the_documentation_is_a_valid_script() -> None:
    blocks = re.findall(r"```toml\n(.*?)```", (ROOT / "docs/scripted-model.md").read_text(), re.DOTALL)
    scripts = [tomllib.loads(block) for block in blocks if "[[rules]]" in block]

    assert len(scripts) == 2
    for script in scripts:
        parse_script(script)
