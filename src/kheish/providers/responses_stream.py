"""From the events of a Responses stream to one reply: `openai` and `xai`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.core.messages import FinishReason, OpaquePart, Part, TextPart, ToolCallPart, Usage
from kheish.providers.drivers import Driver
from kheish.providers.protocol import ModelReply, TextDelta
from kheish.providers.upstream_errors import upstream_error
from kheish.providers.wire import as_int, as_list, as_object, as_str, call_part

MESSAGE_PHASE = "message_phase"
"""The type of our own note of a message's phase, which has no place in a text."""
_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed", "response.cancelled"})


@dataclass(slots=True)
class ResponsesDecoder:
    """Puts one reply together. The response inside the last event decides; what was seen before fills its gaps."""

    provider: str = Driver.OPENAI.value
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
        parts = [part for item in items for part in _parts(item, self.provider)]
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


def _parts(item: JsonObject, driver: str) -> Iterable[Part]:
    match item.get("type"):
        case "message":
            if item.get("phase"):
                yield OpaquePart(driver=driver, data={"type": MESSAGE_PHASE, "phase": item["phase"]})
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
                yield OpaquePart(driver=driver, data=kept)
        case str():
            kept = {key: value for key, value in item.items() if value is not None}
            yield OpaquePart(driver=driver, data=kept)


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
