"""The four wires side by side: our decoder, the fake's encoders, and the official client as the judge."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import anthropic
import openai
from google import genai
from google.genai import types as gemini

from kheish.providers.anthropic import MessagesDecoder
from kheish.providers.chat_completions import ChatDecoder
from kheish.providers.google_stream import GeminiDecoder
from kheish.providers.reply_reader import WireDecoder
from kheish.providers.responses_stream import ResponsesDecoder
from tests.fakes.model_wires import (
    Answer,
    Json,
    chat_document,
    chat_frames,
    gemini_document,
    gemini_frames,
    message_document,
    message_frames,
    response_document,
    response_frames,
)
from tests.providers.reading import client_replying


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What the official client makes of the same bytes."""

    text: str
    calls: list[tuple[str, Any, str | None]]
    finish: str | None
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    private: list[Any]
    """Blocks or items that are neither text nor a call."""


@dataclass(frozen=True, kw_only=True)
class Wire:
    name: str
    decoder: Callable[[], WireDecoder]
    frames: Callable[[Answer], list[bytes]]
    document: Callable[[Answer], Json]
    judge: Callable[[bytes], Awaitable[Judged]]
    error_frame: bytes
    """An error in the middle of a stream that names a rate limit."""


async def judge_chat(data: bytes) -> Judged:
    client = openai.AsyncOpenAI(api_key="k", max_retries=0, http_client=client_replying(data))
    async with client.chat.completions.stream(model="m", messages=[]) as stream:
        async for _ in stream:
            pass
        final = await stream.get_final_completion()
    choice = final.choices[0]
    usage: Json = final.usage.to_dict() if final.usage else {}
    return Judged(
        text=choice.message.content or "",
        calls=[
            (call.function.name, json.loads(call.function.arguments or "{}"), call.id)
            for call in choice.message.tool_calls or []
        ],
        finish=choice.finish_reason,
        input_tokens=usage.get("prompt_tokens", 0),
        output_tokens=usage.get("completion_tokens", 0),
        cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
        private=[],
    )


async def judge_messages(data: bytes) -> Judged:
    client = anthropic.AsyncAnthropic(api_key="k", max_retries=0, http_client=client_replying(data))
    async with client.beta.messages.stream(model="m", max_tokens=1, messages=[]) as stream:
        final = await stream.get_final_message()
    usage: Json = final.usage.to_dict()
    cached, written = usage.get("cache_read_input_tokens") or 0, usage.get("cache_creation_input_tokens") or 0
    blocks: list[Json] = [block.to_dict() for block in final.content]
    return Judged(
        text="".join(block["text"] for block in blocks if block["type"] == "text"),
        calls=[(block["name"], block["input"], block["id"]) for block in blocks if block["type"] == "tool_use"],
        finish=final.stop_reason,
        input_tokens=usage["input_tokens"] + cached + written,
        output_tokens=usage["output_tokens"],
        cached_tokens=cached,
        private=[block for block in blocks if block["type"] not in ("text", "tool_use")],
    )


async def judge_responses(data: bytes) -> Judged:
    client = openai.AsyncOpenAI(api_key="k", max_retries=0, http_client=client_replying(data))
    async with client.responses.stream(model="m", input="x") as stream:
        final = await stream.get_final_response()
    items: list[Json] = [item.to_dict() for item in final.output]
    usage = final.usage
    assert usage is not None
    return Judged(
        text=final.output_text,
        calls=[
            (item["name"], json.loads(item["arguments"]), item["call_id"])
            for item in items
            if item["type"] == "function_call"
        ],
        finish=final.status,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cached_tokens=usage.input_tokens_details.cached_tokens,
        private=[item for item in items if item["type"] not in ("message", "function_call")],
    )


async def judge_gemini(data: bytes) -> Judged:
    options = gemini.HttpOptions(httpx_async_client=client_replying(data))
    client = genai.Client(api_key="k", http_options=options)
    chunks = [chunk async for chunk in await client.aio.models.generate_content_stream(model="m", contents="x")]
    parts = [part for chunk in chunks for part in chunk.parts or []]
    called = [part.function_call for part in parts if part.function_call is not None]
    reasons = [chunk.candidates[0].finish_reason for chunk in chunks if chunk.candidates]
    finish = next((reason for reason in reversed(reasons) if reason is not None), None)
    usage = chunks[-1].usage_metadata
    assert usage is not None
    return Judged(
        text="".join(part.text or "" for part in parts if not part.thought),
        calls=[(call.name or "", call.args or {}, call.id) for call in called],
        finish=None if finish is None else finish.value,
        input_tokens=(usage.prompt_token_count or 0) + (usage.tool_use_prompt_token_count or 0),
        output_tokens=(usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0),
        cached_tokens=usage.cached_content_token_count or 0,
        private=[part.model_dump(mode="json", by_alias=True, exclude_none=True) for part in parts],
    )


CHAT = Wire(
    name="chat",
    decoder=lambda: ChatDecoder("openrouter"),
    frames=chat_frames,
    document=chat_document,
    judge=judge_chat,
    error_frame=b'data: {"error": {"code": 429, "message": "sk-SECRET rate limit"}, "choices": []}\n\n',
)
MESSAGES = Wire(
    name="messages",
    decoder=MessagesDecoder,
    frames=message_frames,
    document=message_document,
    judge=judge_messages,
    error_frame=b'event: error\ndata: {"error": {"type": "rate_limit_error", "message": "sk-SECRET"}}\n\n',
)
RESPONSES = Wire(
    name="responses",
    decoder=ResponsesDecoder,
    frames=response_frames,
    document=response_document,
    judge=judge_responses,
    error_frame=b'data: {"type": "error", "code": "rate_limit_exceeded", "message": "sk-SECRET"}\n\n',
)
GEMINI = Wire(
    name="gemini",
    decoder=GeminiDecoder,
    frames=gemini_frames,
    document=gemini_document,
    judge=judge_gemini,
    error_frame=b'data: {"error": {"code": 429, "message": "sk-SECRET", "status": "RESOURCE_EXHAUSTED"}}\n\n',
)
WIRES = (CHAT, MESSAGES, RESPONSES, GEMINI)
