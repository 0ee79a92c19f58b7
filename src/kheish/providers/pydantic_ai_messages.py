"""Our conversation and that of the pydantic-ai library, turned into each other. What is journaled is ours alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import cast

from pydantic import TypeAdapter, ValidationError
from pydantic_ai import messages as library

from kheish.core.jsonvalue import JsonObject
from kheish.core.messages import (
    FinishReason,
    Message,
    OpaquePart,
    Part,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    Usage,
)
from kheish.providers.drivers import Driver
from kheish.providers.protocol import ModelReply
from kheish.providers.wire import as_object, call_part, output_text, wire_call_id

_DRIVER = Driver.PYDANTIC_AI.value
_EXTRA = "extra_of_next"
"""Marks the provider's own data of the part that follows, which has no place in ours."""
_PART: TypeAdapter[library.ModelResponsePart] = TypeAdapter(library.ModelResponsePart)
_FINISH = {
    "stop": FinishReason.COMPLETED,
    "length": FinishReason.MAX_TOKENS,
    "content_filter": FinishReason.BLOCKED,
    "tool_call": FinishReason.TOOL_CALLS,
}


def to_library(messages: Sequence[Message], system: Sequence[str]) -> list[library.ModelMessage]:
    """Return the conversation as the library takes it; the instructions ride on its last request."""
    made: list[library.ModelMessage] = []
    for message in messages:
        if message.role is Role.ASSISTANT:
            parts = list(_response_parts(message))
            if parts:
                made.append(library.ModelResponse(parts=parts))
            continue
        asked = [part for part in map(_request_part, message.parts) if part is not None]
        last = made[-1] if made else None
        if isinstance(last, library.ModelRequest):
            made[-1] = replace(last, parts=[*last.parts, *asked])
        elif asked:
            made.append(library.ModelRequest(parts=asked))
    instructions = "\n\n".join(section for section in system if section)
    if instructions and made and isinstance(made[-1], library.ModelRequest):
        made[-1] = replace(made[-1], instructions=instructions)
    return made


def _request_part(part: Part) -> library.ModelRequestPart | None:
    if isinstance(part, ToolResultPart):
        text = output_text(part, mark_error=True)
        return library.ToolReturnPart(tool_name=part.name, content=text, tool_call_id=wire_call_id(part.call_id))
    if isinstance(part, TextPart) and part.text:
        return library.UserPromptPart(content=part.text)
    return None


def _response_parts(message: Message) -> Iterable[library.ModelResponsePart]:
    extra: JsonObject = {}
    for part in message.parts:
        match part:
            case OpaquePart(driver=driver, data=data) if driver == _DRIVER:
                kept = as_object(data)
                if _EXTRA in kept:
                    extra = as_object(kept[_EXTRA])
                elif (opaque := _opaque(kept)) is not None:
                    yield opaque
            case TextPart(text=text) if text:
                made = _built({"part_kind": "text", "content": text}, extra)
                extra = {}
                if made is not None:
                    yield made
            case ToolCallPart():
                called: JsonObject = {"tool_name": part.name, "args": part.input}
                fields: JsonObject = {"part_kind": "tool-call", "tool_call_id": wire_call_id(part.call_id), **called}
                made = _built(fields, extra)
                extra = {}
                if made is not None:
                    yield made


def _built(fields: JsonObject, extra: JsonObject) -> library.ModelResponsePart | None:
    return _opaque({**fields, **_extra(extra)}) or _opaque(fields)


def _extra(fields: JsonObject) -> JsonObject:
    return {name: fields[name] for name in ("id", "provider_name", "provider_details") if name in fields}


def _opaque(data: JsonObject) -> library.ModelResponsePart | None:
    try:
        return _PART.validate_python(data)
    except ValidationError:
        return None  # another release of the library wrote it; what it meant is lost, the conversation is not


def from_library(response: library.ModelResponse) -> ModelReply:
    """Return a whole reply of the library as ours."""
    parts = tuple(made for part in response.parts for made in _parts(part))
    reason = _FINISH.get(response.finish_reason or "", FinishReason.UNKNOWN)
    if reason is FinishReason.COMPLETED and any(isinstance(part, ToolCallPart) for part in parts):
        reason = FinishReason.TOOL_CALLS
    usage = response.usage
    return ModelReply(
        parts=parts,
        finish_reason=reason,
        usage=Usage(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cached_input_tokens=usage.cache_read_tokens,
            cache_write_tokens=usage.cache_write_tokens,
        ),
        response_id=response.provider_response_id,
    )


def _parts(part: library.ModelResponsePart) -> Iterable[Part]:
    dumped = cast("JsonObject", _PART.dump_python(part, mode="json", exclude_none=True))
    if not isinstance(part, library.TextPart | library.ToolCallPart):
        yield OpaquePart(driver=_DRIVER, data=dumped)
        return
    extra = _extra(dumped)
    if extra:
        yield OpaquePart(driver=_DRIVER, data={_EXTRA: extra})
    if isinstance(part, library.TextPart):
        if part.content:
            yield TextPart(text=part.content)
    else:
        yield call_part(name=part.tool_name, arguments=dumped.get("args"), provider_call_id=part.tool_call_id)
