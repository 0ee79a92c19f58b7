"""One reply, as each of the four wires sends it: as stream events and as a JSON document."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Call:
    """A tool call of the model; ``arguments`` goes out as written when it is a string."""

    name: str
    arguments: Json | str = field(default_factory=dict)
    id: str = "call_1"

    @property
    def text(self) -> str:
        return self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the model says. ``finish`` is in the wire's own words; None is the natural one."""

    text: str = ""
    calls: Sequence[Call] = ()
    thinking: str | None = None
    input_tokens: int = 10
    output_tokens: int = 5
    cached_tokens: int = 0
    finish: str | None = None
    pieces: int = 3
    """Into how many pieces texts and arguments are cut."""
    response_id: str = "resp_1"
    """On the Responses wire."""


def cut(text: str, pieces: int) -> list[str]:
    """Cut a text into at most ``pieces`` parts of about the same length."""
    size = max(1, -(-len(text) // max(1, pieces)))
    return [text[start : start + size] for start in range(0, len(text), size)]


def sse(events: Sequence[Json], *, named: bool = False, done: bool = False) -> list[bytes]:
    """Frame events, one byte string each."""
    frames = []
    for event in events:
        head = f"event: {event['type']}\n" if named else ""
        frames.append(f"{head}data: {json.dumps(event, ensure_ascii=False)}\n\n".encode())
    return [*frames, b"data: [DONE]\n\n"] if done else frames


# Chat completions


def chat_usage(answer: Answer) -> Json:
    return {
        "prompt_tokens": answer.input_tokens,
        "completion_tokens": answer.output_tokens,
        "total_tokens": answer.input_tokens + answer.output_tokens,
        "prompt_tokens_details": {"cached_tokens": answer.cached_tokens},
    }


def chat_finish(answer: Answer) -> str:
    return answer.finish or ("tool_calls" if answer.calls else "stop")


def chat_details(answer: Answer) -> list[Json]:
    return [{"type": "reasoning.text", "text": answer.thinking, "signature": "sig", "format": "f", "index": 0}]


def chat_frames(answer: Answer, model: str = "m") -> list[bytes]:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": model}
    deltas: list[Json] = [{"role": "assistant", "content": ""}]
    if answer.thinking is not None:
        deltas.append({"reasoning_details": chat_details(answer)})
    deltas += [{"content": piece} for piece in cut(answer.text, answer.pieces)]
    for index, call in enumerate(answer.calls):
        first = {"index": index, "id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
        deltas.append({"tool_calls": [first]})
        for piece in cut(call.text, answer.pieces):
            deltas.append({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    chunks = [{**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": chat_finish(answer)}]})
    chunks.append({**head, "choices": [], "usage": chat_usage(answer)})
    return sse(chunks, done=True)


def chat_document(answer: Answer, model: str = "m") -> Json:
    message: Json = {"role": "assistant", "content": answer.text or None}
    if answer.thinking is not None:
        message["reasoning_details"] = chat_details(answer)
    if answer.calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.text}}
            for call in answer.calls
        ]
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": chat_finish(answer)}],
        "usage": chat_usage(answer),
    }


# Anthropic Messages


def message_stop_reason(answer: Answer) -> str:
    return answer.finish or ("tool_use" if answer.calls else "end_turn")


def message_document(answer: Answer, model: str = "m") -> Json:
    content: list[Json] = []
    if answer.thinking is not None:
        content.append({"type": "thinking", "thinking": answer.thinking, "signature": "sig"})
    if answer.text:
        content.append({"type": "text", "text": answer.text})
    for call in answer.calls:
        content.append({"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments})
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": message_stop_reason(answer),
        "stop_sequence": None,
        "usage": {
            "input_tokens": answer.input_tokens - answer.cached_tokens,
            "cache_read_input_tokens": answer.cached_tokens,
            "output_tokens": answer.output_tokens,
        },
    }


def _block_events(index: int, block: Json, answer: Answer, call: Call | None) -> list[Json]:
    deltas: list[Json] = []
    start = dict(block)
    if block["type"] == "text":
        start["text"] = ""
        deltas = [{"type": "text_delta", "text": piece} for piece in cut(block["text"], answer.pieces)]
    elif block["type"] == "thinking":
        start |= {"thinking": "", "signature": ""}
        deltas = [{"type": "thinking_delta", "thinking": piece} for piece in cut(block["thinking"], answer.pieces)]
        deltas.append({"type": "signature_delta", "signature": block["signature"]})
    elif call is not None:
        start["input"] = {}
        pieces = cut(call.text, answer.pieces)
        deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in ["", *pieces]]
    return [
        {"type": "content_block_start", "index": index, "content_block": start},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def message_frames(answer: Answer, model: str = "m") -> list[bytes]:
    document = message_document(answer, model)
    opening = {**document, "content": [], "stop_reason": None, "usage": {**document["usage"], "output_tokens": 1}}
    events: list[Json] = [{"type": "message_start", "message": opening}]
    calls = iter(answer.calls)
    for index, block in enumerate(document["content"]):
        events += _block_events(index, block, answer, next(calls) if block["type"] == "tool_use" else None)
        if index == 0:
            events.append({"type": "ping"})
    events.append(
        {
            "type": "message_delta",
            "delta": {"stop_reason": message_stop_reason(answer), "stop_sequence": None},
            "usage": {"output_tokens": answer.output_tokens},
        }
    )
    events.append({"type": "message_stop"})
    return sse(events, named=True)


# OpenAI Responses


def response_items(answer: Answer) -> list[Json]:
    items: list[Json] = []
    if answer.thinking is not None:
        items.append({"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": answer.thinking})
    if answer.text:
        content = [{"type": "output_text", "text": answer.text, "annotations": []}]
        items.append({"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": content})
    for number, call in enumerate(answer.calls):
        items.append(
            {
                "type": "function_call",
                "id": f"fc_{number}",
                "call_id": call.id,
                "name": call.name,
                "arguments": call.text,
                "status": "completed",
            }
        )
    return items


def response_document(answer: Answer, model: str = "m") -> Json:
    cut_short = answer.finish in ("max_output_tokens", "content_filter")
    return {
        "id": answer.response_id,
        "object": "response",
        "created_at": 1,
        "model": model,
        "status": "incomplete" if cut_short else "completed",
        "error": None,
        "incomplete_details": {"reason": answer.finish} if cut_short else None,
        "instructions": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "output": response_items(answer),
        "usage": {
            "input_tokens": answer.input_tokens,
            "input_tokens_details": {"cached_tokens": answer.cached_tokens},
            "output_tokens": answer.output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": answer.input_tokens + answer.output_tokens,
        },
    }


def _item_events(index: int, item: Json, answer: Answer) -> list[Json]:
    at = {"output_index": index, "item_id": item["id"]}
    if item["type"] == "message":
        text, part = item["content"][0]["text"], {"content_index": 0, **at}
        empty = {**item["content"][0], "text": ""}
        opened = {**item, "content": [], "status": "in_progress"}
        inner: list[Json] = [{"type": "response.content_part.added", **part, "part": empty}]
        inner += [
            {"type": "response.output_text.delta", **part, "delta": piece, "logprobs": []}
            for piece in cut(text, answer.pieces)
        ]
        inner.append({"type": "response.output_text.done", **part, "text": text, "logprobs": []})
        inner.append({"type": "response.content_part.done", **part, "part": item["content"][0]})
    elif item["type"] == "function_call":
        opened = {**item, "arguments": "", "status": "in_progress"}
        pieces = cut(item["arguments"], answer.pieces)
        inner = [{"type": "response.function_call_arguments.delta", **at, "delta": piece} for piece in pieces]
        inner.append(
            {
                "type": "response.function_call_arguments.done",
                **at,
                "arguments": item["arguments"],
                "name": item["name"],
            }
        )
    else:
        opened, inner = {**item, "encrypted_content": None}, []
    return [
        {"type": "response.output_item.added", "output_index": index, "item": opened},
        *inner,
        {"type": "response.output_item.done", "output_index": index, "item": item},
    ]


def response_frames(answer: Answer, model: str = "m") -> list[bytes]:
    document = response_document(answer, model)
    opening = {**document, "status": "in_progress", "output": [], "usage": None, "incomplete_details": None}
    events: list[Json] = [
        {"type": "response.created", "response": opening},
        {"type": "response.in_progress", "response": opening},
    ]
    for index, item in enumerate(document["output"]):
        events += _item_events(index, item, answer)
    events.append({"type": f"response.{document['status']}", "response": document})
    return sse([{**event, "sequence_number": number} for number, event in enumerate(events)], named=True)


# Gemini


def gemini_usage(answer: Answer) -> Json:
    thoughts = min(1, answer.output_tokens)
    return {
        "promptTokenCount": answer.input_tokens,
        "candidatesTokenCount": answer.output_tokens - thoughts,
        "thoughtsTokenCount": thoughts,
        "cachedContentTokenCount": answer.cached_tokens,
        "totalTokenCount": answer.input_tokens + answer.output_tokens,
    }


def gemini_calls(answer: Answer) -> list[Json]:
    return [{"functionCall": {"id": call.id, "name": call.name, "args": call.arguments}} for call in answer.calls]


def gemini_document(answer: Answer, model: str = "m") -> Json:
    parts: list[Json] = [] if answer.thinking is None else [{"text": answer.thinking, "thought": True}]
    parts += [{"text": answer.text}] if answer.text else []
    content = {"parts": [*parts, *gemini_calls(answer)], "role": "model"}
    return {
        "candidates": [{"content": content, "finishReason": answer.finish or "STOP", "index": 0}],
        "usageMetadata": gemini_usage(answer),
        "modelVersion": model,
        "responseId": "resp-1",
    }


def gemini_frames(answer: Answer, model: str = "m") -> list[bytes]:
    parts = [{"text": piece, "thought": True} for piece in cut(answer.thinking or "", answer.pieces)]
    parts += [{"text": piece} for piece in cut(answer.text, answer.pieces)]
    parts += gemini_calls(answer)
    usage = {"promptTokenCount": answer.input_tokens + 90, "totalTokenCount": answer.input_tokens + 90}
    tail = {"modelVersion": model, "responseId": "resp-1"}
    chunks: list[Json] = [
        {"candidates": [{"content": {"parts": [part], "role": "model"}, "index": 0}], "usageMetadata": usage, **tail}
        for part in parts
    ]
    last = {"content": {"parts": [{"text": ""}], "role": "model"}, "finishReason": answer.finish or "STOP", "index": 0}
    chunks.append({"candidates": [last], "usageMetadata": gemini_usage(answer), **tail})
    return sse(chunks)
