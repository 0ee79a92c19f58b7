"""The optional driver over the pydantic-ai library and its vendors' clients, against model servers on real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx2
import pytest

pytest.importorskip("pydantic_ai", reason="the pydantic-ai extra is not installed")

from openai import AsyncOpenAI
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.google import GoogleModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.google import GoogleProvider
from pydantic_ai.providers.openai import OpenAIProvider

from kheish.core.jsonvalue import JsonObject
from kheish.core.messages import (
    FinishReason,
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
    Usage,
    user_text,
)
from kheish.providers.limits import Limits
from kheish.providers.protocol import ErrorKind, ModelReply, ModelRequest, ProviderError, TextDelta
from kheish.providers.pydantic_ai import PydanticAiProvider
from kheish.providers.routes_file import parse_routes
from kheish.providers.tables import RoutesError
from tests.fakes.model_server import Answer, Call, ModelServer, Raw, Refusal, Respond, Response, Stream
from tests.fakes.model_wires import chat_frames

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the vendors' clients among each other
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
IDS = ("call-1", "call-2")

READ = ToolSpec(
    name="read_file",
    description="Read.",
    input_schema={"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
)


def chat(url: str, http: httpx2.AsyncClient) -> Model:
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key="sk-SECRET", http_client=http)
    return OpenAIChatModel("m", provider=OpenAIProvider(openai_client=client))


def messages(url: str, http: httpx2.AsyncClient) -> Model:
    vendor = AnthropicProvider(api_key="sk-SECRET", base_url=url, http_client=http)
    return AnthropicModel("claude-sonnet-4-5", provider=vendor)


def gemini(url: str, http: httpx2.AsyncClient) -> Model:
    vendor = GoogleProvider(api_key="sk-SECRET", base_url=url, http_client=http)
    return GoogleModel("gemini-3-flash", provider=vendor)


every_vendor = pytest.mark.parametrize("vendor", [chat, messages, gemini], ids=lambda vendor: vendor.__name__)
Vendor = Callable[[str, httpx2.AsyncClient], Model]


@asynccontextmanager
async def provider(
    answer: Respond | Response, vendor: Vendor = chat, *, limits: Limits | None = None
) -> AsyncIterator[tuple[PydanticAiProvider, ModelServer]]:
    with ModelServer(answer) as server:
        async with httpx2.AsyncClient() as http:
            yield PydanticAiProvider(limits or Limits(), build=lambda name: vendor(server.url, http)), server


def request(*messages: Message, **generation: object) -> ModelRequest:
    return ModelRequest(
        model="vendor:m",
        system=("You help.", "Be short."),
        messages=messages or (user_text("look"),),
        tools=(READ,),
        generation=Generation(**generation),  # type: ignore[arg-type]  # the fields of Generation, by name
    )


async def ask(target: PydanticAiProvider, made: ModelRequest) -> tuple[str, ModelReply]:
    heard, reply = "", None
    async for event in target.stream(made):
        if isinstance(event, TextDelta):
            heard += event.text
        else:
            reply = event
    assert reply is not None
    return heard, reply


@every_vendor
async def test_text_thoughts_parallel_calls_and_usage_arrive_and_go_back(vendor: Vendor) -> None:
    calls = [Call(name="read_file", arguments={"path": name}, id=f"toolu_{name}") for name in "ab"]
    first = Answer(text="Grüße", thinking="a plan", calls=calls, input_tokens=20, output_tokens=9, cached_tokens=8)
    async with provider(lambda r: Answer(text="done") if r.number else first, vendor) as (target, server):
        heard, reply = await ask(target, request())

        assert heard == "Grüße"
        called = [part for part in reply.parts if isinstance(part, ToolCallPart)]
        assert [(part.name, part.input, part.call_id) for part in called] == [
            ("read_file", {"path": "a"}, ""),
            ("read_file", {"path": "b"}, ""),
        ]
        assert reply.finish_reason is FinishReason.TOOL_CALLS
        assert replace(reply.usage, cache_write_tokens=0) == Usage(
            input_tokens=20, output_tokens=9, cached_input_tokens=8
        )
        ids = iter(IDS)
        parts = tuple(replace(p, call_id=next(ids)) if isinstance(p, ToolCallPart) else p for p in reply.parts)
        answered = tuple(
            ToolResultPart(call_id=call_id, name="read_file", output={"text": call_id})
            for call_id in ("call-1", "call-2")
        )
        said = Message(role=Role.ASSISTANT, parts=parts)
        _, last = await ask(target, request(user_text("look"), said, Message(role=Role.TOOL, parts=answered)))

        assert last.parts == (TextPart(text="done"),)
        assert set(server.requests[1].tool_results) == set(IDS)
        sent = str(server.requests[1].body)
        assert "You help.\n\nBe short." in sent.replace("\\n", "\n")
        if any(isinstance(part, OpaquePart) and "a plan" in str(part.data) for part in reply.parts):
            assert "a plan" in sent or vendor is chat  # chat completions have no place for thoughts of others


@every_vendor
async def test_a_stream_that_ends_early_is_no_reply(vendor: Vendor) -> None:
    async with provider(Stream(answer=Answer(text="the whole of it"), cut_after=2), vendor) as (target, _):
        with pytest.raises(ProviderError) as caught:
            await ask(target, request())

    assert caught.value.retryable
    assert caught.value.kind is ErrorKind.TRANSPORT


@every_vendor
@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (429, ErrorKind.RATE_LIMITED, True),
        (529, ErrorKind.SERVER_OVERLOADED, True),
        (401, ErrorKind.AUTH, False),
        (400, ErrorKind.INVALID_REQUEST, False),
    ],
)
async def test_a_refusal_costs_one_request_and_loses_its_words(
    vendor: Vendor, status: int, kind: ErrorKind, retryable: bool
) -> None:
    refusal = Refusal(status=status, headers={"Retry-After": "3"}, body={"error": {"message": "sk-SECRET words"}})
    async with provider(refusal, vendor) as (target, server):
        with pytest.raises(ProviderError) as caught:
            await ask(target, request())

    assert (caught.value.kind, caught.value.retryable, caught.value.status) == (kind, retryable, status)
    assert "SECRET" not in caught.value.message
    assert len(server.requests) == 1


async def test_silence_ends_at_the_inactivity_limit() -> None:
    first = chat_frames(Answer(text="h"))[0]
    async with provider(Raw(chunks=[first], then="silence"), limits=Limits(inactivity=0.3)) as (target, _):
        with pytest.raises(ProviderError, match="inactive, nothing received") as caught:
            await ask(target, request())

    assert caught.value.retryable


async def test_the_settings_reach_the_vendor() -> None:
    node: JsonObject = {"kind": "object", "fields": {"n": {"kind": "number"}}}
    made = request(
        max_output_tokens=77,
        temperature=0.5,
        allow_parallel_tool_calls=False,
        tool_choice=ToolChoice(type="required"),
        response_format=ResponseFormat(type="structured_json", schema=node),
    )
    async with provider(Answer(text="x")) as (target, server):
        await ask(target, made)
        body = server.requests[0].body

    assert body.get("max_completion_tokens", body.get("max_tokens")) == 77
    assert (body["temperature"], body["parallel_tool_calls"], body["tool_choice"]) == (0.5, False, "required")
    assert body["tools"][0]["function"]["parameters"]["required"] == ["path"]
    assert "JSON Schema" in str(body["messages"][0])


async def test_what_cannot_be_said_or_set_up_is_refused_before_anything_is_sent() -> None:
    async with provider(Answer(text="x")) as (target, server):
        for reasoning in (Reasoning(budget_tokens=1), Reasoning(interleaved=True, effort=ReasoningEffort.LOW)):
            with pytest.raises(ProviderError, match="effort only"):
                await ask(target, request(reasoning=reasoning))
        assert server.requests == []
    with pytest.raises(ProviderError, match="its model cannot be set up") as caught:
        await ask(PydanticAiProvider(Limits()), replace(request(), model="no-such-vendor:sk-SECRET"))
    assert not caught.value.retryable
    assert "SECRET" not in caught.value.message


def test_a_route_of_the_library_takes_its_keys_from_the_environment() -> None:
    data = b'[routes.r]\ndriver = "pydantic_ai"\ndefault_model = "bedrock:nova"\n'
    route = parse_routes(data, {}).routes[0]

    assert route.accepts("mistral:large")
    assert route.api_key is None
    with pytest.raises(RoutesError, match="come from the environment"):
        parse_routes(data + b'api_key = "k"\n', {})
