"""The OpenAI Responses wire, stateless: every request carries the whole input, nothing is stored upstream."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field

from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.core.messages import (
    FinishReason,
    Generation,
    Message,
    OpaquePart,
    Part,
    Reasoning,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    ToolSpec,
    Usage,
)
from kheish.providers.drivers import Driver
from kheish.providers.json_schemas import project, strict
from kheish.providers.model_table import is_openai_reasoning, output_caps, takes_temperature
from kheish.providers.protocol import ModelReply, ModelRequest, TextDelta
from kheish.providers.transport import ModelEndpoint
from kheish.providers.upstream_errors import local_error, upstream_error
from kheish.providers.wire import (
    arguments_text,
    as_int,
    as_list,
    as_object,
    as_str,
    call_part,
    output_text,
    wire_call_id,
)

_DRIVER = Driver.OPENAI.value
_MAX_CACHE_KEY = 64
_PHASE = "message_phase"
_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed", "response.cancelled"})


class OpenAiResponsesProvider:
    """One Responses endpoint."""

    driver = _DRIVER

    def __init__(self, endpoint: ModelEndpoint) -> None:
        self._endpoint = endpoint

    async def stream(self, request: ModelRequest) -> AsyncIterator[TextDelta | ModelReply]:
        """Yield the reply as it arrives; see `Provider.stream`."""
        body = build_body(request)
        async with aclosing(self._endpoint.stream(body, ResponsesDecoder())) as events:
            async for event in events:
                yield event


def build_body(request: ModelRequest) -> JsonObject:
    """Return the request body.

    Raises:
        ProviderError: the request asks for something this wire cannot say.
    """
    generation = request.generation
    caps = output_caps(request.model)
    body: JsonObject = {
        "model": request.model,
        "stream": True,
        "store": False,
        "input": [item for message in request.messages for item in _items(message)],
        "max_output_tokens": min(generation.max_output_tokens or caps.default, caps.upper),
        "text": {"format": _text_format(generation)},
        **_tool_fields(request),
        **_reasoning_fields(generation.reasoning),
    }
    instructions = "\n\n".join(section for section in request.system if section)
    if instructions:
        body["instructions"] = instructions
    if is_openai_reasoning(request.model):  # without it nothing could be replayed, since nothing is stored
        body["include"] = ["reasoning.encrypted_content"]
    if generation.temperature is not None and takes_temperature(request.model):
        body["temperature"] = generation.temperature
    if request.cache_key:
        body["prompt_cache_key"] = _cache_key(request.cache_key)
    return body


def _cache_key(key: str) -> str:
    return key if len(key) <= _MAX_CACHE_KEY else hashlib.sha256(key.encode()).hexdigest()


def _text_format(generation: Generation) -> JsonObject:
    if generation.response_format.type != "structured_json":
        return {"type": "text"}
    schema = project(generation.response_format.schema or {"kind": "any"})
    made = strict(schema)
    return {"type": "json_schema", "name": "reply", "schema": made or schema, "strict": made is not None}


def _tool_fields(request: ModelRequest) -> JsonObject:
    if not request.tools:
        return {}
    choice = request.generation.tool_choice
    return {
        "tools": [_tool(tool) for tool in request.tools],
        "tool_choice": {"type": "function", "name": choice.name} if choice.type == "specific" else choice.type,
        "parallel_tool_calls": request.generation.allow_parallel_tool_calls,
    }


def _tool(tool: ToolSpec) -> JsonObject:
    made = strict(tool.input_schema)
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": made or tool.input_schema,
        "strict": made is not None,
    }


def _reasoning_fields(reasoning: Reasoning | None) -> JsonObject:
    if reasoning is None:
        return {}
    if reasoning.budget_tokens is not None:
        raise local_error(_DRIVER, "reasoning.budget_tokens is not known to this driver")
    if reasoning.interleaved:
        raise local_error(_DRIVER, "reasoning.interleaved is not known to this driver")
    fields: JsonObject = {"effort": reasoning.effort.value} if reasoning.effort else {}
    if reasoning.summary not in (None, "none"):
        fields["summary"] = reasoning.summary
    return {"reasoning": fields} if fields else {}


def _items(message: Message) -> Iterable[JsonObject]:
    if message.role is Role.ASSISTANT:
        yield from _assistant_items(message)
        return
    text: list[JsonValue] = []
    for part in message.parts:
        if isinstance(part, ToolResultPart):
            output = output_text(part, mark_error=True)
            yield {"type": "function_call_output", "call_id": wire_call_id(part.call_id), "output": output}
        elif isinstance(part, TextPart) and part.text:
            text.append({"type": "input_text", "text": part.text})
    if text:
        yield {"role": "system" if message.role is Role.SYSTEM else "user", "content": text}


def _assistant_items(message: Message) -> Iterable[JsonObject]:
    phase: JsonValue = None
    for part in message.parts:
        match part:
            case OpaquePart(driver=driver, data=dict() as data) if driver == _DRIVER:
                if data.get("type") == _PHASE:
                    phase = data.get("phase")
                else:
                    yield data
            case TextPart(text=text) if text:
                item: JsonObject = {"role": "assistant", "content": text}
                yield {**item, "phase": phase} if phase else item
                phase = None
            case ToolCallPart():
                yield {
                    "type": "function_call",
                    "call_id": wire_call_id(part.call_id),
                    "name": part.name,
                    "arguments": arguments_text(part),
                }


@dataclass(slots=True)
class ResponsesDecoder:
    """Puts one reply together. The response inside the last event decides; what was seen before fills its gaps."""

    provider: str = _DRIVER
    _opened: dict[int, JsonObject] = field(default_factory=dict)
    _items: dict[int, JsonObject] = field(default_factory=dict)
    _texts: dict[tuple[int, int], int] = field(default_factory=dict)
    """(output index, content index) → number of the text part."""
    _response: JsonObject | None = None

    @property
    def complete(self) -> bool:
        return self._response is not None

    @property
    def finished(self) -> bool:
        return self._response is not None

    def event(self, event: JsonObject) -> list[TextDelta]:
        kind, index = as_str(event.get("type")), as_int(event.get("output_index"))
        if kind in ("response.output_text.delta", "response.refusal.delta"):
            number = self._texts.setdefault((index, as_int(event.get("content_index"))), len(self._texts))
            piece = as_str(event.get("delta"))
            return [TextDelta(text=piece, part=number)] if piece else []
        if kind == "response.output_item.added":
            self._opened[index] = as_object(event.get("item"))
        elif kind == "response.output_item.done":
            self._items[index] = as_object(event.get("item"))
        elif kind == "response.function_call_arguments.done":
            self._items[index] = {**self._opened.get(index, {}), "arguments": event.get("arguments")}
        elif kind == "response.output_text.done" and index not in self._items:
            content: list[JsonValue] = [{"type": "output_text", "text": event.get("text")}]
            self._items[index] = {"type": "message", "content": content}
        elif kind in _ENDS:
            self._end(as_object(event.get("response")))
        elif kind == "error":
            raise upstream_error(self.provider, "stream", event)
        return []

    def _end(self, response: JsonObject) -> None:
        if response.get("status") == "failed" or response.get("error"):
            raise upstream_error(self.provider, "stream", {"error": response.get("error")})
        self._response = response

    def reply(self) -> ModelReply:
        response = self._response or {}
        last = {index: as_object(item) for index, item in enumerate(as_list(response.get("output")))}
        items = [item for _, item in sorted((self._items | last).items())]
        parts = [part for item in items for part in _parts(item)]
        return ModelReply(
            parts=tuple(parts),
            finish_reason=_finish(response, items, parts),
            usage=_usage(as_object(response.get("usage"))),
            response_id=as_str(response.get("id")) or None,
        )

    def whole(self, document: JsonObject) -> ModelReply | None:
        if document.get("status") not in ("completed", "incomplete", "failed", "cancelled"):
            return None
        self._end(document)
        return self.reply()


def _parts(item: JsonObject) -> Iterable[Part]:
    match item.get("type"):
        case "message":
            if item.get("phase"):
                yield OpaquePart(driver=_DRIVER, data={"type": _PHASE, "phase": item["phase"]})
            for piece in map(as_object, as_list(item.get("content"))):
                text = as_str(piece.get("text")) or as_str(piece.get("refusal"))
                if text:
                    yield TextPart(text=text)
        case "function_call":
            yield call_part(
                name=as_str(item.get("name")),
                arguments=item.get("arguments"),
                provider_call_id=as_str(item.get("call_id")),
            )
        case "reasoning":
            kept: JsonObject = {key: value for key, value in item.items() if value is not None and key != "status"}
            # What is not stored upstream can only come back with its content.
            if kept.get("encrypted_content") or kept.get("content"):
                yield OpaquePart(driver=_DRIVER, data=kept)
        case str():
            kept = {key: value for key, value in item.items() if value is not None}
            yield OpaquePart(driver=_DRIVER, data=kept)


def _finish(response: JsonObject, items: list[JsonObject], parts: list[Part]) -> FinishReason:
    status = response.get("status")
    if status == "incomplete":
        reason = as_object(response.get("incomplete_details")).get("reason")
        known = {"max_output_tokens": FinishReason.MAX_TOKENS, "content_filter": FinishReason.BLOCKED}
        return known.get(as_str(reason), FinishReason.UNKNOWN)
    if status == "cancelled":
        return FinishReason.CANCELLED
    contents = (as_object(piece) for item in items for piece in as_list(item.get("content")))
    if any(content.get("type") == "refusal" for content in contents):
        return FinishReason.BLOCKED
    if any(isinstance(part, ToolCallPart) for part in parts):
        return FinishReason.TOOL_CALLS
    return FinishReason.COMPLETED


def _usage(usage: JsonObject) -> Usage:
    return Usage(
        input_tokens=as_int(usage.get("input_tokens")),
        output_tokens=as_int(usage.get("output_tokens")),
        cached_input_tokens=as_int(as_object(usage.get("input_tokens_details")).get("cached_tokens")),
    )
