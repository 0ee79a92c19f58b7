"""The request body of every wire, checked against the official clients' own request types."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from anthropic.types.content_block_param import ContentBlockParam
from anthropic.types.message_create_params import MessageCreateParamsStreaming
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming
from openai.types.responses.response_create_params import ResponseCreateParamsStreaming
from pydantic import TypeAdapter

from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.core.messages import (
    Generation,
    Message,
    OpaquePart,
    Reasoning,
    ReasoningEffort,
    ResponseFormat,
    Role,
    TextPart,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
    ToolSpec,
    user_text,
)
from kheish.providers import anthropic, chat_completions, google, openai_responses
from kheish.providers.drivers import Driver
from kheish.providers.json_schemas import project, strict
from kheish.providers.protocol import Continuation, ErrorKind, ModelRequest, ProviderError
from tests.fakes.model_wires import Answer, Call
from tests.providers.reading import read
from tests.providers.wires import CHAT, GEMINI, MESSAGES, RESPONSES, Wire

Body = dict[str, Any]
Build = Callable[[ModelRequest], Any]

THINKING: JsonObject = {"type": "thinking", "thinking": "a plan", "signature": "sig"}
REASONING: JsonObject = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "abc"}
DETAILS: list[JsonValue] = [{"type": "reasoning.text", "text": "a plan", "signature": "sig", "format": "f", "index": 0}]
CLOSED: JsonObject = {
    "type": "object",
    "properties": {"path": {"type": "string", "description": "Where."}},
    "required": ["path"],
    "additionalProperties": False,
}
OPEN: JsonObject = {"type": "object", "properties": {"limit": {"type": "integer"}}}

EPHEMERAL = {"type": "ephemeral"}
CONVERSATION = (
    user_text("look"),
    Message(
        role=Role.ASSISTANT,
        parts=(
            OpaquePart(driver="anthropic", data=THINKING),
            OpaquePart(driver="openai", data=REASONING),
            OpaquePart(driver="openrouter", data={"reasoning_details": DETAILS}),
            OpaquePart(driver="scripted", data={"thought": "x"}),
            OpaquePart(driver="openai", data={"type": "message_phase", "phase": "commentary"}),
            TextPart(text="Looking."),
            ToolCallPart(call_id="call-1", name="read_file", input={"path": "a"}, provider_call_id="toolu_9"),
            ToolCallPart(call_id="call-2", name="find", input={}, provider_call_id="toolu_9"),
        ),
    ),
    Message(role=Role.TOOL, parts=(ToolResultPart(call_id="call-1", name="read_file", output={"text": "A"}),)),
    Message(role=Role.TOOL, parts=(ToolResultPart(call_id="call-2", name="find", output="no", is_error=True),)),
    user_text("and now?"),
)


def request(**changes: Any) -> ModelRequest:
    made = ModelRequest(
        model="gpt-5.4",
        system=("You help.", "", "Be short."),
        messages=CONVERSATION,
        tools=(
            ToolSpec(name="read_file", description="Read.", input_schema=dict(CLOSED)),
            ToolSpec(name="find", description="Find.", input_schema=dict(OPEN)),
        ),
        generation=Generation(),
        cache_key="session-1",
    )
    return replace(made, **changes)


def chat(made: ModelRequest) -> Any:
    return chat_completions.build_body(made, Driver.OPENROUTER)


def messages(made: ModelRequest) -> Any:
    return anthropic.build_body(made)


def responses(made: ModelRequest) -> Any:
    return openai_responses.build_body(made)


def grok(made: ModelRequest) -> Any:
    return openai_responses.build_body(made, openai_responses.XAI)


def compatible(made: ModelRequest) -> Any:
    return chat_completions.build_body(made, Driver.OPENAI_COMPATIBLE)


def accepted(kind: Any, body: Body) -> None:
    """Validate against the official request type; a key it does not know would be lost, and is found out."""
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    assert json.loads(adapter.dump_json(adapter.validate_python(body), exclude_unset=True)) == body


GENERATIONS = (
    Generation(),
    Generation(max_output_tokens=100, temperature=0.5, allow_parallel_tool_calls=False),
    Generation(tool_choice=ToolChoice(type="none")),
    Generation(tool_choice=ToolChoice(type="required")),
    Generation(tool_choice=ToolChoice(type="specific", name="find")),
    Generation(reasoning=Reasoning(effort=ReasoningEffort.HIGH)),
    Generation(
        response_format=ResponseFormat(
            type="structured_json",
            schema={"kind": "object", "fields": {"a": {"kind": "array", "items": {"kind": "number"}}}},
        )
    ),
)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_chat_bodies_are_what_the_official_client_would_send(generation: Generation) -> None:
    body = compatible(request(generation=generation))
    accepted(CompletionCreateParamsStreaming, body)

    extended = chat(request(generation=generation))
    extended["messages"][2].pop("reasoning_details")  # OpenRouter's own fields are not in OpenAI's types
    extended.pop("reasoning", None)
    accepted(CompletionCreateParamsStreaming, extended)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_responses_bodies_are_what_the_official_client_would_send(generation: Generation) -> None:
    accepted(ResponseCreateParamsStreaming, responses(request(generation=generation)))
    accepted(ResponseCreateParamsStreaming, responses(request(generation=generation, model="gpt-4o")))


@pytest.mark.parametrize("model", ["grok-4-fast-reasoning", "grok-4-fast-non-reasoning"])
@pytest.mark.parametrize("generation", GENERATIONS)
def test_xai_bodies_differ_where_its_wire_does(generation: Generation, model: str) -> None:
    """Rule 21: no `strict`, no instructions field, no word about plain text."""
    body = grok(request(generation=generation, model=model))
    kept = {**CONVERSATION_ITEMS, "store": False}

    assert body.items() >= kept.items()
    assert not {"instructions", "previous_response_id"} & body.keys()
    assert not any("strict" in tool for tool in body["tools"])
    assert ("text" in body) is (generation.response_format.type == "structured_json")
    assert body.get("max_output_tokens") == generation.max_output_tokens
    assert body.get("include") == (None if "non" in model else ["reasoning.encrypted_content"])
    for tool in body["tools"]:  # which the other vendor demands
        tool["strict"] = False
    accepted(ResponseCreateParamsStreaming, body)


def test_xai_refuses_structured_output_beside_tools_where_the_model_cannot() -> None:
    made = request(model="grok-3", generation=GENERATIONS[-1])

    with pytest.raises(ProviderError, match="cannot combine structured output with tools") as caught:
        grok(made)
    assert (caught.value.kind, caught.value.retryable) == (ErrorKind.INVALID_REQUEST, False)
    assert grok(replace(made, tools=()))["text"]["format"]["type"] == "json_schema"


@pytest.mark.parametrize("model", ["claude-opus-4-6", "claude-sonnet-4-5"])
@pytest.mark.parametrize("generation", GENERATIONS)
def test_messages_bodies_are_what_the_official_client_would_send(generation: Generation, model: str) -> None:
    body = messages(request(generation=generation, model=model))

    turns = body.pop("messages")
    assert body.pop("temperature", None) == generation.temperature  # older models only, so no longer in the types

    accepted(MessageCreateParamsStreaming, {**body, "messages": []})
    for message in turns:
        assert set(message) == {"role", "content"}
        for block in message["content"]:  # one by one: pydantic loses lists inside the client's nested unions
            accepted(ContentBlockParam, block)


CONVERSATION_ITEMS: Body = {
    "input": [
        {"role": "system", "content": "You help.\n\nBe short."},
        {"role": "user", "content": [{"type": "input_text", "text": "look"}]},
        {"role": "assistant", "content": "Looking."},
        {"type": "function_call", "call_id": "call-1", "name": "read_file", "arguments": '{"path":"a"}'},
        {"type": "function_call", "call_id": "call-2", "name": "find", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call-1", "output": '{"text":"A"}'},
        {"type": "function_call_output", "call_id": "call-2", "output": "Error: no"},
        {"role": "user", "content": [{"type": "input_text", "text": "and now?"}]},
    ]
}


def chat_call(call_id: str, name: str, arguments: str) -> Body:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def test_a_whole_chat_body() -> None:
    assert chat(request()) == {
        "model": "gpt-5.4",
        "messages": [
            {"role": "system", "content": "You help.\n\nBe short."},
            {"role": "user", "content": "look"},
            {
                "role": "assistant",
                "content": "Looking.",
                "tool_calls": [
                    {
                        "id": "call-1",
                        "type": "function",
                        "function": {"name": "read_file", "arguments": '{"path":"a"}'},
                    },
                    {"id": "call-2", "type": "function", "function": {"name": "find", "arguments": "{}"}},
                ],
                "reasoning_details": DETAILS,
            },
            {"role": "tool", "tool_call_id": "call-1", "content": '{"text":"A"}'},
            {"role": "tool", "tool_call_id": "call-2", "content": "Error: no"},
            {"role": "user", "content": "and now?"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "tools": [
            {"type": "function", "function": {"name": "read_file", "description": "Read.", "parameters": CLOSED}},
            {"type": "function", "function": {"name": "find", "description": "Find.", "parameters": OPEN}},
        ],
        "max_tokens": 8000,
    }


def test_a_compatible_server_is_told_no_more_than_was_asked() -> None:
    body = compatible(request(tools=(), system=()))

    assert set(body) == {"model", "messages", "stream", "stream_options"}
    assert "reasoning_details" not in body["messages"][1]


def test_a_whole_messages_body_replays_thinking_before_text_and_calls() -> None:
    """providers-and-routes case 12, the request's side."""
    assert messages(request(model="claude-sonnet-4-5")) == {
        "model": "claude-sonnet-4-5",
        "max_tokens": 8000,
        "stream": True,
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "look"}]},
            {
                "role": "assistant",
                "content": [
                    THINKING,
                    {"type": "text", "text": "Looking."},
                    {"type": "tool_use", "id": "call-1", "name": "read_file", "input": {"path": "a"}},
                    {"type": "tool_use", "id": "call-2", "name": "find", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "call-1",
                        "content": [{"type": "text", "text": '{"text":"A"}'}],
                    },
                    {
                        "type": "tool_result",
                        "tool_use_id": "call-2",
                        "content": [{"type": "text", "text": "no"}],
                        "is_error": True,
                    },
                    {"type": "text", "text": "and now?"},
                ],
            },
        ],
        "cache_control": EPHEMERAL,
        "tools": [
            {"name": "read_file", "description": "Read.", "input_schema": CLOSED},
            {"name": "find", "description": "Find.", "input_schema": OPEN, "cache_control": EPHEMERAL},
        ],
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": False},
        "system": [{"type": "text", "text": "You help.\n\nBe short.", "cache_control": EPHEMERAL}],
    }


def test_what_all_sessions_share_is_the_same_bytes_whatever_else_is_asked() -> None:
    """The cached prefix: tools and instructions, before anything a run brings along."""
    plain, asked = messages(request()), messages(request(generation=GENERATIONS[-1], messages=(user_text("other"),)))

    assert asked["tools"] == plain["tools"]
    assert asked["system"][: len(plain["system"])] == plain["system"]
    assert len(asked["system"]) == 2
    assert "cache_control" not in asked["system"][1]


def test_a_whole_responses_body_without_a_reply_to_go_on_from_carries_the_full_input() -> None:
    body = responses(request())

    assert body == {
        "model": "gpt-5.4",
        "stream": True,
        "store": True,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "session-1",
        "instructions": "You help.\n\nBe short.",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "look"}]},
            REASONING,
            {"role": "assistant", "content": "Looking.", "phase": "commentary"},
            {"type": "function_call", "call_id": "call-1", "name": "read_file", "arguments": '{"path":"a"}'},
            {"type": "function_call", "call_id": "call-2", "name": "find", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "call-1", "output": '{"text":"A"}'},
            {"type": "function_call_output", "call_id": "call-2", "output": "Error: no"},
            {"role": "user", "content": [{"type": "input_text", "text": "and now?"}]},
        ],
        "max_output_tokens": 8000,
        "text": {"format": {"type": "text"}},
        "tools": [
            {"type": "function", "name": "read_file", "description": "Read.", "parameters": CLOSED, "strict": True},
            {"type": "function", "name": "find", "description": "Find.", "parameters": OPEN, "strict": False},
        ],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
    }


def test_a_responses_body_goes_on_from_a_stored_reply_with_what_is_new_and_the_providers_own_call_ids() -> None:
    """providers-and-routes case 13, the request's side."""
    parts = tuple(
        replace(part, provider_call_id=f"fc-{number}") if isinstance(part, ToolResultPart) else part
        for number, message in enumerate(CONVERSATION)
        for part in message.parts
    )
    answered = Message(role=Role.TOOL, parts=tuple(part for part in parts if isinstance(part, ToolResultPart)))
    made = request(
        messages=(*CONVERSATION[:2], answered, user_text("and now?")),
        continues=Continuation(response_id="resp-7", known_messages=2),
    )
    body = responses(made)

    accepted(ResponseCreateParamsStreaming, body)
    assert body["previous_response_id"] == "resp-7"
    assert body["input"] == [
        {"type": "function_call_output", "call_id": "fc-2", "output": '{"text":"A"}'},
        {"type": "function_call_output", "call_id": "fc-3", "output": "Error: no"},
        {"role": "user", "content": [{"type": "input_text", "text": "and now?"}]},
    ]
    whole = responses(replace(made, continues=None))
    assert {**body, "input": whole["input"]} == {**whole, "previous_response_id": "resp-7"}
    unstored = openai_responses.build_body(made, replace(openai_responses.OPENAI, stores=False))
    assert unstored == {**whole, "store": False}
    assert "previous_response_id" not in grok(made)


@pytest.mark.parametrize(
    ("wire", "build"), [(CHAT, chat), (MESSAGES, messages), (RESPONSES, responses), (GEMINI, google.build_body)]
)
def test_what_a_reply_keeps_private_goes_back_unchanged_and_first(wire: Wire, build: Build) -> None:
    _, reply = read(wire.decoder(), wire.frames(Answer(text="t", thinking="a plan", calls=[Call(name="x")])))
    parts = tuple(replace(part, call_id="c-1") if isinstance(part, ToolCallPart) else part for part in reply.parts)
    answered = Message(role=Role.TOOL, parts=(ToolResultPart(call_id="c-1", name="x", output="y"),))

    sent = json.dumps(build(request(messages=(user_text("u"), Message(role=Role.ASSISTANT, parts=parts), answered))))

    private = [part.data for part in reply.parts if isinstance(part, OpaquePart)]
    assert len(private) == 1
    kept: Any = private[0]
    kept = kept["reasoning_details"] if wire is CHAT else kept
    assert json.dumps(kept) in sent
    assert wire is CHAT or sent.index(json.dumps(kept)) < sent.index('"c-1"')


def test_call_ids_fit_every_provider_and_stay_paired() -> None:
    odd = "call:1/ä " + "x" * 100
    conversation = (
        Message(role=Role.ASSISTANT, parts=(ToolCallPart(call_id=odd, name="x", input={}),)),
        Message(role=Role.TOOL, parts=(ToolResultPart(call_id=odd, name="x", output=1),)),
    )
    body = messages(request(messages=conversation))

    call = body["messages"][0]["content"][0]["id"]
    result = body["messages"][1]["content"][0]["tool_use_id"]
    assert call == result
    assert len(call) == 64
    assert call.isascii()
    assert call.replace("_", "").replace("-", "").isalnum()


@pytest.mark.parametrize("choice", ["required", "specific"])
@pytest.mark.parametrize("model", ["claude-opus-4-6", "claude-sonnet-4-5"])
@pytest.mark.parametrize("reasoning", [Reasoning(budget_tokens=2048), Reasoning(effort=ReasoningEffort.LOW)])
def test_thinking_with_a_forced_tool_is_refused_before_anything_is_sent(
    choice: str, model: str, reasoning: Reasoning
) -> None:
    """providers-and-routes case 11."""
    generation = Generation(reasoning=reasoning, tool_choice=ToolChoice(type=choice, name="find"))

    with pytest.raises(ProviderError, match="forced tool choice") as caught:
        messages(request(model=model, generation=generation))

    assert (caught.value.kind, caught.value.retryable) == (ErrorKind.INVALID_REQUEST, False)


@pytest.mark.parametrize(
    ("model", "generation", "expected"),
    [
        (
            "claude-sonnet-4-5",
            Generation(reasoning=Reasoning(budget_tokens=100), temperature=0.3),
            {"max_tokens": 8000, "thinking": {"type": "enabled", "budget_tokens": 1024}},
        ),
        (
            "claude-sonnet-4-5",
            Generation(reasoning=Reasoning(effort=ReasoningEffort.HIGH), max_output_tokens=4000),
            {"max_tokens": 20384, "thinking": {"type": "enabled", "budget_tokens": 16384}},
        ),
        (
            "claude-3-7-sonnet",
            Generation(reasoning=Reasoning(budget_tokens=90_000)),
            {"max_tokens": 64000, "thinking": {"type": "enabled", "budget_tokens": 62976}},
        ),
        (
            "claude-opus-4-6",
            Generation(reasoning=Reasoning(effort=ReasoningEffort.XHIGH, budget_tokens=5), temperature=0.3),
            {"max_tokens": 8000, "thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}},
        ),
        ("claude-opus-4-6", Generation(reasoning=Reasoning(budget_tokens=5)), {"thinking": {"type": "adaptive"}}),
        ("claude-opus-4-6", Generation(reasoning=Reasoning(effort=ReasoningEffort.NONE), temperature=0.3), {}),
        ("claude-opus-4-6", Generation(reasoning=Reasoning(interleaved=True)), {}),
        ("claude-opus-4-7", Generation(temperature=0.3), {"max_tokens": 8000}),
        ("claude-3-opus", Generation(max_output_tokens=9000), {"max_tokens": 4096}),
    ],
)
def test_thinking_fields_of_old_and_new_models(model: str, generation: Generation, expected: Body) -> None:
    body = messages(request(model=model, generation=generation))

    assert expected.items() <= body.items()
    if "thinking" in expected or model == "claude-opus-4-7":
        assert "temperature" not in body
    else:
        assert "thinking" not in body
        assert "output_config" not in body


def test_tool_choice_none_sends_no_tools_to_anthropic() -> None:
    body = messages(request(generation=Generation(tool_choice=ToolChoice(type="none"))))

    assert "tools" not in body
    assert "tool_choice" not in body


def test_structured_output_is_asked_for_in_words_on_anthropic_and_by_schema_elsewhere() -> None:
    node: JsonObject = {
        "kind": "object",
        "fields": {"n": {"kind": "number"}},
        "optional_fields": {"s": {"kind": "string"}},
    }
    made = request(generation=Generation(response_format=ResponseFormat(type="structured_json", schema=node)))
    schema = {
        "type": "object",
        "properties": {"n": {"type": "number"}, "s": {"type": "string"}},
        "required": ["n"],
        "additionalProperties": False,
    }

    assert json.dumps(schema, separators=(",", ":")) in messages(made)["system"][-1]["text"]
    assert chat(made)["response_format"]["json_schema"] == {"name": "reply", "schema": schema, "strict": False}
    assert responses(made)["text"] == {
        "format": {"type": "json_schema", "name": "reply", "schema": schema, "strict": False}
    }


def test_beta_headers_are_joined_once_each() -> None:
    interleaved = Reasoning(interleaved=True)

    assert anthropic.beta_headers((), None) == {}
    assert anthropic.beta_headers(("a", "b", "a"), None) == {"anthropic-beta": "a,b"}
    assert anthropic.beta_headers(("a",), interleaved) == {"anthropic-beta": "a,interleaved-thinking-2025-05-14"}


@pytest.mark.parametrize("build", [compatible, responses])
@pytest.mark.parametrize("reasoning", [Reasoning(budget_tokens=5), Reasoning(interleaved=True)])
def test_reasoning_a_wire_cannot_say_is_refused_not_ignored(build: Build, reasoning: Reasoning) -> None:
    with pytest.raises(ProviderError, match="is not known to this driver") as caught:
        build(request(generation=Generation(reasoning=reasoning)))

    assert not caught.value.retryable


def test_reasoning_on_each_wire() -> None:
    effort = Generation(reasoning=Reasoning(effort=ReasoningEffort.LOW, summary="concise"))
    budget = Generation(reasoning=Reasoning(budget_tokens=500))

    assert chat(request(generation=effort))["reasoning"] == {"effort": "low"}
    assert chat(request(generation=budget))["reasoning"] == {"max_tokens": 500}
    assert compatible(request(generation=effort))["reasoning_effort"] == "low"
    sent = responses(request(generation=effort))
    assert sent["reasoning"] == {"effort": "low", "summary": "concise"}
    silent = Generation(reasoning=Reasoning(summary="none"))
    assert "reasoning" not in responses(request(generation=silent))


def test_a_temperature_is_kept_from_models_that_reject_it() -> None:
    warm = Generation(temperature=0.5)

    assert "temperature" not in responses(request(generation=warm))
    body = responses(request(generation=warm, model="gpt-4o"))
    assert body["temperature"] == 0.5
    assert "include" not in body


def test_a_long_cache_key_is_shortened() -> None:
    key = responses(request(cache_key="s" * 100))["prompt_cache_key"]

    assert len(str(key)) == 64


@pytest.mark.parametrize(
    ("schema", "possible"),
    [
        (CLOSED, True),
        ({"type": "object", "properties": {}}, True),
        (OPEN, False),
        ({**CLOSED, "additionalProperties": True}, False),
        ({**CLOSED, "allOf": []}, False),
        ({"type": "object", "properties": {"a": {"type": "array", "items": OPEN}}, "required": ["a"]}, False),
        ({"type": "object", "properties": {"a": {"anyOf": [{"type": "null"}, CLOSED]}}, "required": ["a"]}, True),
        ({"type": "object", "properties": {"a": {"anyOf": [OPEN]}}, "required": ["a"]}, False),
        ({"type": "object", "properties": {"a": {}}, "required": ["a"]}, False),
        ({}, False),
    ],
)
def test_a_schema_is_made_strict_only_when_that_changes_nothing(schema: Body, possible: bool) -> None:
    made = strict(schema)

    assert (made is not None) is possible
    assert made is None or made["additionalProperties"] is False


def test_schema_nodes_are_projected() -> None:
    assert project({"kind": "any"}) == {}
    assert project({"kind": "array"}) == {"type": "array"}
    assert project({"kind": "array", "items": {"kind": "boolean"}}) == {"type": "array", "items": {"type": "boolean"}}
