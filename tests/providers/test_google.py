"""The Gemini wire: bodies judged by the official client, signatures, thinking, finishes, errors."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from google import genai
from google.genai import types as gemini

from kheish.core.jsonvalue import JsonObject
from kheish.core.messages import (
    FinishReason,
    Generation,
    Message,
    OpaquePart,
    Part,
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
from kheish.providers.drivers import Driver, endpoint_for
from kheish.providers.google import build_body, model_url
from kheish.providers.protocol import ErrorKind, ModelReply, ModelRequest, ProviderError
from tests.providers.reading import calls, opaque, read, text
from tests.providers.wires import GEMINI

pytestmark = pytest.mark.anyio

Body = dict[str, Any]
SCHEMA: JsonObject = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
NODE: JsonObject = {"kind": "object", "fields": {"n": {"kind": "number"}}}
PROJECTED = {
    "type": "object",
    "properties": {"n": {"type": "number"}},
    "required": ["n"],
    "additionalProperties": False,
}
JSON_ONLY = Generation(response_format=ResponseFormat(type="structured_json", schema=NODE))
CONVERSATION = (
    user_text("look"),
    Message(
        role=Role.ASSISTANT,
        parts=(
            OpaquePart(driver="google", data={"text": "a plan", "thought": True}),
            OpaquePart(driver="anthropic", data={"type": "thinking", "thinking": "x", "signature": "s"}),
            OpaquePart(driver="google", data={"thoughtSignature": "c2lnMQ=="}),
            TextPart(text="Looking."),
            OpaquePart(driver="google", data={"thoughtSignature": "c2lnMg=="}),
            ToolCallPart(call_id="call-1", name="readfile", input={"path": "a"}, provider_call_id="x"),
            ToolCallPart(call_id="call-2", name="readfile", input={"path": "b"}),
        ),
    ),
    Message(
        role=Role.TOOL,
        parts=(
            ToolResultPart(call_id="call-1", name="readfile", output={"text": "A"}),
            ToolResultPart(call_id="call-2", name="readfile", output="no", is_error=True),
        ),
    ),
    user_text("and now?"),
)


def request(**changes: Any) -> ModelRequest:
    made = ModelRequest(
        model="gemini-2.5-flash",
        system=("You help.", "", "Be short."),
        messages=CONVERSATION,
        tools=(ToolSpec(name="readfile", description="Read.", input_schema=dict(SCHEMA)),),
        generation=Generation(),
    )
    return replace(made, **changes)


def body(**changes: Any) -> Any:
    return build_body(request(**changes))


def heard(*events: Any) -> ModelReply:
    return read(GEMINI.decoder(), [f"data: {json.dumps(event)}\n\n".encode() for event in events])[1]


def chunk(*parts: Any, **rest: Any) -> Any:
    return {"candidates": [{"content": {"parts": list(parts), "role": "model"}, "index": 0, **rest}]}


def camel(value: Any) -> Any:
    """The API takes both spellings of a field, and the official client sends now one and now the other."""
    if isinstance(value, list):
        return [camel(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {re.sub("_([a-z])", lambda found: found[1].upper(), key): camel(item) for key, item in value.items()}


async def sent_by_the_official_client(made: ModelRequest, ours: Body) -> tuple[str, Body]:
    """Build the same request out of the official types and return what that client puts on the wire."""
    seen: list[httpx2.Request] = []

    def answer(sent: httpx2.Request) -> httpx2.Response:
        seen.append(sent)
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=b"data: {}\n\n")

    http = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    client = genai.Client(api_key="k", http_options=gemini.HttpOptions(httpx_async_client=http, api_version="v1beta"))
    fields = {key: ours[key] for key in ("tools", "toolConfig") if key in ours}
    instruction = gemini.Content.model_validate(ours["systemInstruction"])
    config = gemini.GenerateContentConfig(**ours["generationConfig"], **fields, system_instruction=instruction)
    contents = [gemini.Content.model_validate(content) for content in ours["contents"]]
    stream = await client.aio.models.generate_content_stream(model=made.model, contents=list(contents), config=config)
    async for _ in stream:
        pass
    return str(seen[0].url), json.loads(seen[0].content)


@pytest.mark.parametrize("model", ["gemini-2.5-pro", "gemini-2.5-flash", "gemini-3-pro-preview", "gemini-3-flash"])
@pytest.mark.parametrize(
    "generation",
    [
        Generation(),
        Generation(max_output_tokens=100, temperature=0.5),
        Generation(tool_choice=ToolChoice(type="none")),
        Generation(tool_choice=ToolChoice(type="required")),
        Generation(tool_choice=ToolChoice(type="specific", name="readfile")),
        Generation(reasoning=Reasoning(effort=ReasoningEffort.HIGH, summary="auto")),
        Generation(reasoning=Reasoning(budget_tokens=2048)),
        JSON_ONLY,
    ],
)
async def test_bodies_and_urls_are_what_the_official_client_sends(generation: Generation, model: str) -> None:
    made = request(generation=generation, model=model)
    ours: Any = build_body(made)

    url, theirs = await sent_by_the_official_client(made, ours)

    assert ours == camel(theirs)
    endpoint = endpoint_for(Driver.GOOGLE, None)
    assert endpoint is not None
    assert model_url(endpoint, model) == url


def test_a_whole_body() -> None:
    assert body() == {
        "systemInstruction": {"parts": [{"text": "You help.\n\nBe short."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "look"}]},
            {
                "role": "model",
                "parts": [
                    {"text": "a plan", "thought": True},
                    {"text": "Looking.", "thoughtSignature": "c2lnMQ=="},
                    {
                        "functionCall": {"id": "call-1", "name": "readfile", "args": {"path": "a"}},
                        "thoughtSignature": "c2lnMg==",
                    },
                    {"functionCall": {"id": "call-2", "name": "readfile", "args": {"path": "b"}}},
                ],
            },
            {
                "role": "user",
                "parts": [
                    {
                        "functionResponse": {
                            "id": "call-1",
                            "name": "readfile",
                            "response": {"output": {"text": "A"}},
                        }
                    },
                    {"functionResponse": {"id": "call-2", "name": "readfile", "response": {"error": "no"}}},
                    {"text": "and now?"},
                ],
            },
        ],
        "generationConfig": {"maxOutputTokens": 65536},
        "tools": [
            {"functionDeclarations": [{"name": "readfile", "description": "Read.", "parametersJsonSchema": SCHEMA}]}
        ],
    }


def test_signatures_go_back_on_the_parts_they_came_with() -> None:
    came = [
        {"text": "thinking ", "thought": True},
        {"text": "hard", "thought": True},
        {"text": "A"},
        {"text": "B"},
        {"text": "C", "thoughtSignature": "c2lnMQ=="},
        {"functionCall": {"name": "f", "args": {"n": 1}}, "thoughtSignature": "c2lnMg=="},
        {"functionCall": {"name": "g", "args": {}}},
        {"executableCode": {"code": "1", "language": "PYTHON"}, "thoughtSignature": "c2lnMw=="},
        {"text": "", "thoughtSignature": "c2lnNA=="},
    ]
    reply = heard(*(chunk(part) for part in came), chunk({"text": ""}, finishReason="STOP"))
    assert text(reply) == "ABC"

    ids = iter(("call-1", "call-2"))
    parts: tuple[Part, ...] = tuple(
        replace(part, call_id=next(ids)) if isinstance(part, ToolCallPart) else part for part in reply.parts
    )
    sent = body(messages=(user_text("u"), Message(role=Role.ASSISTANT, parts=parts)))["contents"][1]["parts"]

    assert sent == [
        {"text": "thinking hard", "thought": True},
        {"text": "AB"},
        {"text": "C", "thoughtSignature": "c2lnMQ=="},
        {"functionCall": {"id": "call-1", "name": "f", "args": {"n": 1}}, "thoughtSignature": "c2lnMg=="},
        {"functionCall": {"id": "call-2", "name": "g", "args": {}}},
        {"executableCode": {"code": "1", "language": "PYTHON"}, "thoughtSignature": "c2lnMw=="},
        {"text": "", "thoughtSignature": "c2lnNA=="},
    ]


@pytest.mark.parametrize(
    ("model", "expected"),
    [("gemini-3-flash", ["skip_thought_signature_validator", None]), ("gemini-2.5-pro", [None, None])],
)
def test_calls_of_another_model_are_marked_where_signatures_are_demanded(
    model: str, expected: list[str | None]
) -> None:
    foreign = Message(
        role=Role.ASSISTANT,
        parts=tuple(ToolCallPart(call_id=f"c{number}", name="f", input={}) for number in range(2)),
    )
    sent = body(model=model, messages=(user_text("u"), foreign))["contents"][1]["parts"]

    assert [part.get("thoughtSignature") for part in sent] == expected


@pytest.mark.parametrize(
    ("model", "reasoning", "expected"),
    [
        ("gemini-2.5-flash", Reasoning(effort=ReasoningEffort.NONE), {"thinkingBudget": 0}),
        ("gemini-2.5-pro", Reasoning(effort=ReasoningEffort.NONE), {"thinkingBudget": 128}),
        ("gemini-2.5-pro", Reasoning(effort=ReasoningEffort.XHIGH), {"thinkingBudget": 24576}),
        ("models/gemini-2.5-flash", Reasoning(effort=ReasoningEffort.LOW), {"thinkingBudget": 1024}),
        (
            "gemini-2.5-flash",
            Reasoning(budget_tokens=5, effort=ReasoningEffort.LOW, summary="detailed"),
            {"thinkingBudget": 5, "includeThoughts": True},
        ),
        ("gemini-3-flash", Reasoning(effort=ReasoningEffort.NONE, summary="none"), {"thinkingLevel": "MINIMAL"}),
        ("gemini-3-pro-preview", Reasoning(effort=ReasoningEffort.MINIMAL), {"thinkingLevel": "LOW"}),
        ("gemini-3-pro-preview", Reasoning(effort=ReasoningEffort.MEDIUM), {"thinkingLevel": "HIGH"}),
        ("gemini-3.1-pro-preview", Reasoning(effort=ReasoningEffort.MEDIUM), {"thinkingLevel": "MEDIUM"}),
        ("gemini-3-flash", Reasoning(effort=ReasoningEffort.XHIGH), {"thinkingLevel": "HIGH"}),
        ("gemini-2.5-flash", Reasoning(), None),
        ("gemini-2.5-flash", None, None),
    ],
)
def test_thinking_fields(model: str, reasoning: Reasoning | None, expected: Body | None) -> None:
    config = body(model=model, generation=Generation(reasoning=reasoning))["generationConfig"]

    assert config.get("thinkingConfig") == expected


def test_interleaved_thinking_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(ProviderError, match=r"reasoning\.interleaved is not known") as caught:
        body(generation=Generation(reasoning=Reasoning(interleaved=True)))

    assert (caught.value.kind, caught.value.retryable) == (ErrorKind.INVALID_REQUEST, False)


def test_structured_output_is_native_except_beside_tools_on_older_models() -> None:
    native = {"maxOutputTokens": 65536, "responseMimeType": "application/json", "responseJsonSchema": PROJECTED}
    assert body(generation=JSON_ONLY, tools=())["generationConfig"] == native
    newer = body(generation=JSON_ONLY, model="gemini-3-flash")
    assert newer["generationConfig"] == {**native, "maxOutputTokens": 32768}

    older = body(generation=JSON_ONLY)
    assert "responseMimeType" not in older["generationConfig"]
    assert json.dumps(PROJECTED, separators=(",", ":")) in older["systemInstruction"]["parts"][0]["text"]


def test_a_blocked_prompt_is_a_blocked_reply_without_text() -> None:
    reply = heard({"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 7}})

    assert reply == ModelReply(parts=(), finish_reason=FinishReason.BLOCKED, usage=Usage(input_tokens=7))


@pytest.mark.parametrize("reason", ["MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL"])
def test_a_reply_the_model_got_wrong_is_an_error_worth_a_retry(reason: str) -> None:
    with pytest.raises(ProviderError, match=f"google stream failed: code={reason}$") as caught:
        heard(chunk({"text": "x"}), chunk(finishReason=reason, finishMessage="sk-SECRET"))

    assert caught.value.retryable


def test_the_last_usage_counts_with_thoughts_and_what_its_tools_read() -> None:
    last = {
        "promptTokenCount": 10,
        "toolUsePromptTokenCount": 5,
        "candidatesTokenCount": 3,
        "thoughtsTokenCount": 4,
        "cachedContentTokenCount": 8,
    }
    reply = heard(
        {**chunk({"text": "x"}), "usageMetadata": {"promptTokenCount": 99, "candidatesTokenCount": 99}},
        {**chunk(finishReason="STOP"), "usageMetadata": last, "responseId": "r-1"},
    )

    assert reply.usage == Usage(input_tokens=15, output_tokens=7, cached_input_tokens=8)
    assert reply.response_id == "r-1"


def test_only_the_first_candidate_is_heard_and_calls_without_arguments_are_calls() -> None:
    other = {"index": 1, "content": {"parts": [{"text": "other"}]}, "finishReason": "STOP"}
    reply = heard(
        {"candidates": [other]},
        chunk({"functionCall": {"name": "f"}}, {"functionCall": {"name": "g", "args": None, "id": "7"}}),
        chunk(finishReason="STOP"),
    )

    assert (text(reply), opaque(reply)) == ("", [])
    assert calls(reply) == [("f", {}, None), ("g", {}, "7")]
    assert reply.finish_reason is FinishReason.TOOL_CALLS


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("http://h:1", "http://h:1/v1beta/models/gemini-x:streamGenerateContent?alt=sse"),
        ("http://h:1/", "http://h:1/v1beta/models/gemini-x:streamGenerateContent?alt=sse"),
        ("http://h:1/v1", "http://h:1/v1/models/gemini-x:streamGenerateContent?alt=sse"),
        ("http://h:1/v1beta/", "http://h:1/v1beta/models/gemini-x:streamGenerateContent?alt=sse"),
        ("http://h:1/p/{model}:streamGenerateContent", "http://h:1/p/gemini-x:streamGenerateContent?alt=sse"),
        ("http://h:1/whole/answer", "http://h:1/whole/answer"),
    ],
)
def test_the_models_name_goes_into_the_url(base_url: str, url: str) -> None:
    endpoint = endpoint_for(Driver.GOOGLE, base_url)
    assert endpoint is not None
    assert model_url(endpoint, "gemini-x") == url
    assert model_url(endpoint, "models/gemini-x") == url


def test_a_models_name_cannot_leave_its_place_in_the_url() -> None:
    assert (
        model_url("http://h/v1beta/models/{model}:x", "../../a?b#c") == "http://h/v1beta/models/..%2F..%2Fa%3Fb%23c:x"
    )
