"""The chat completions wire: `openrouter`, and `openai_compatible` for any other server that speaks it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.core.messages import (
    FinishReason,
    Message,
    OpaquePart,
    Part,
    Reasoning,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    Usage,
)
from kheish.providers.drivers import Driver
from kheish.providers.json_schemas import project, strict
from kheish.providers.model_table import output_caps
from kheish.providers.protocol import ModelReply, ModelRequest, TextDelta
from kheish.providers.transport import ModelEndpoint
from kheish.providers.upstream_errors import local_error, upstream_error
from kheish.providers.wire import (
    arguments_text,
    as_amount,
    as_int,
    as_list,
    as_object,
    as_str,
    call_part,
    output_text,
    wire_call_id,
)
from kheish.providers.written import WrittenConversations, WrittenRequests

_REASONING_DETAILS = "reasoning_details"
_FINISH = {
    "stop": FinishReason.COMPLETED,
    "length": FinishReason.MAX_TOKENS,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
    "content_filter": FinishReason.BLOCKED,
}


class ChatCompletionsProvider:
    """One chat completions endpoint."""

    def __init__(self, driver: Driver, endpoint: ModelEndpoint) -> None:
        self.driver = driver.value
        self._endpoint = endpoint
        written = WrittenConversations(partial(_conversation, driver=driver))
        self._written = WrittenRequests(
            self.driver, partial(_body, driver), lambda request: written.items(request.cache_key, request.messages)
        )

    def stream(self, request: ModelRequest) -> AsyncGenerator[TextDelta | ModelReply, None]:
        """Yield the reply as it arrives; see `Provider.stream`."""
        content = self._written.content(request)
        return self._endpoint.stream(content, ChatDecoder(self.driver), before_send=request.before_send)


def build_body(request: ModelRequest, driver: Driver) -> JsonObject:
    """Return the request body.

    Raises:
        ProviderError: the request asks for something this wire cannot say.
    """
    return _body(driver, request, [*_conversation(request.messages, driver)])


def _body(driver: Driver, request: ModelRequest, conversation: list[JsonValue]) -> JsonObject:
    generation = request.generation
    body: JsonObject = {
        "model": request.model,
        "messages": [*_instructions(request), *conversation],
        "stream": True,
        "stream_options": {"include_usage": True},
        **_tool_fields(request),
        **_reasoning_fields(generation.reasoning, driver),
    }
    max_tokens = _max_tokens(request, driver)
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    if generation.temperature is not None:
        body["temperature"] = generation.temperature
    if generation.response_format.type == "structured_json":
        schema = project(generation.response_format.schema or {"kind": "any"})
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "reply", "schema": schema, "strict": strict(schema) is not None},
        }
    return body


def _max_tokens(request: ModelRequest, driver: Driver) -> int | None:
    wanted = request.generation.max_output_tokens
    if driver is Driver.OPENAI_COMPATIBLE:  # nothing is known about its models: it uses its own default
        return wanted
    caps = output_caps(request.model)
    return min(wanted or caps.default, caps.upper)


def _tool_fields(request: ModelRequest) -> JsonObject:
    if not request.tools:
        return {}
    choice = request.generation.tool_choice
    fields: JsonObject = {
        "tools": [
            {
                "type": "function",
                "function": {"name": tool.name, "description": tool.description, "parameters": tool.input_schema},
            }
            for tool in request.tools
        ]
    }
    if choice.type == "specific":
        fields["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
    elif choice.type != "auto":
        fields["tool_choice"] = choice.type
    if not request.generation.allow_parallel_tool_calls:
        fields["parallel_tool_calls"] = False
    return fields


def _reasoning_fields(reasoning: Reasoning | None, driver: Driver) -> JsonObject:
    if reasoning is None:
        return {}
    if reasoning.interleaved:
        raise local_error(driver, "reasoning.interleaved is not known to this driver")
    if driver is Driver.OPENROUTER:
        if reasoning.budget_tokens is not None:
            return {"reasoning": {"max_tokens": reasoning.budget_tokens}}
        return {"reasoning": {"effort": reasoning.effort.value}} if reasoning.effort else {}
    if reasoning.budget_tokens is not None:
        raise local_error(driver, "reasoning.budget_tokens is not known to this driver")
    return {"reasoning_effort": reasoning.effort.value} if reasoning.effort else {}


def _instructions(request: ModelRequest) -> list[JsonObject]:
    system = "\n\n".join(section for section in request.system if section)
    return [{"role": "system", "content": system}] if system else []


def _conversation(messages: Sequence[Message], driver: Driver) -> list[JsonObject]:
    return [item for message in messages for item in _wire_messages(message, driver)]


def _wire_messages(message: Message, driver: Driver) -> Iterable[JsonObject]:
    match message.role:
        case Role.ASSISTANT:
            made = _assistant(message, driver)
            return [made] if made else []
        case Role.TOOL:
            return [
                {
                    "role": "tool",
                    "tool_call_id": wire_call_id(part.call_id),
                    "content": output_text(part, mark_error=True),
                }
                for part in message.parts
                if isinstance(part, ToolResultPart)
            ]
        case _:
            return [{"role": message.role.value, "content": message.text}] if message.text else []


def _assistant(message: Message, driver: Driver) -> JsonObject | None:
    text = ""
    calls: list[JsonValue] = []
    details: list[JsonValue] = []
    for part in message.parts:
        match part:
            case TextPart():
                text += part.text
            case ToolCallPart():
                function: JsonObject = {"name": part.name, "arguments": arguments_text(part)}
                calls.append({"id": wire_call_id(part.call_id), "type": "function", "function": function})
            case OpaquePart() if part.driver == driver:
                details += as_list(as_object(part.data).get(_REASONING_DETAILS))
            case _:
                pass
    if not calls and not text:
        return None
    made: JsonObject = {"role": "assistant", "content": text or None}
    if calls:
        made["tool_calls"] = calls
    if details:
        made[_REASONING_DETAILS] = details
    return made


@dataclass(slots=True)
class _Call:
    """A tool call while its pieces arrive."""

    id: str = ""
    name: str = ""
    pieces: list[str] = field(default_factory=list)
    whole: JsonValue = None
    """Arguments that came as an object already, as some servers send them."""

    def part(self) -> ToolCallPart:
        arguments = "".join(self.pieces) if self.whole is None else self.whole
        return call_part(name=self.name, arguments=arguments, provider_call_id=self.id)

    @property
    def has_all_arguments(self) -> bool:
        return (any(self.pieces) or self.whole is not None) and self.part().invalid_input is None


def _begins_another(known: _Call, index: int | None, call_id: str, name: str) -> bool:
    """Say whether a piece is the first of a new call, for servers that number every call 0, or not at all."""
    if call_id and known.id:
        return call_id != known.id
    if not name:
        return False
    return known.has_all_arguments or (index is None and name != known.name)


@dataclass(slots=True)
class ChatDecoder:
    """Puts one reply together from chunks. Only the first choice counts: no other is asked for."""

    provider: str
    _text: list[str] = field(default_factory=list)
    _refused: bool = False
    _details: list[JsonObject] = field(default_factory=list)
    _calls: list[_Call] = field(default_factory=list)
    _by_index: dict[int, _Call] = field(default_factory=dict)
    _finish: str | None = None
    _usage: Usage = Usage()
    _response_id: str | None = None

    @property
    def complete(self) -> bool:
        return self._finish is not None

    @property
    def finished(self) -> bool:
        return False  # usage follows the finish reason; `[DONE]` or the end of the stream ends it

    def event(self, event: JsonObject) -> list[TextDelta]:
        if event.get("error"):
            raise upstream_error(self.provider, "stream", event)
        self._response_id = as_str(event.get("id")) or self._response_id
        usage = event.get("usage")
        if isinstance(usage, dict):
            self._usage = _usage(usage)
        deltas: list[TextDelta] = []
        for choice in as_list(event.get("choices")):
            if isinstance(choice, dict) and as_int(choice.get("index")) == 0:
                deltas += self._choice(choice, as_object(choice.get("delta")))
        return deltas

    def _choice(self, choice: JsonObject, delta: JsonObject) -> list[TextDelta]:
        finish = choice.get("finish_reason")
        if choice.get("error") or finish == "error":
            raise upstream_error(self.provider, "stream", choice.get("error") or {"code": "error"})
        # Nearly every delta has a content and nothing else.
        content = delta.get("content")
        text = content if isinstance(content, str) else _visible(content)
        if refusal := delta.get("refusal"):
            text += as_str(refusal)
            self._refused = self._refused or bool(as_str(refusal))
        if details := delta.get(_REASONING_DETAILS):
            self._details.extend(map(as_object, as_list(details)))
        if pieces := delta.get("tool_calls"):
            for piece in map(as_object, as_list(pieces)):
                self._call_piece(piece)
        if finish:
            self._finish = as_str(finish) or self._finish
        if not text:
            return []
        self._text.append(text)
        return [TextDelta(text=text)]

    def _call_piece(self, piece: JsonObject) -> None:
        function = as_object(piece.get("function"))
        call_id, name = as_str(piece.get("id")), as_str(function.get("name"))
        index = piece.get("index")
        call = self._call_for(index if isinstance(index, int) else None, call_id, name)
        call.id = call.id or call_id
        if name != call.name:  # the name comes whole, or in pieces, or is repeated with every piece
            call.name += name
        arguments = function.get("arguments")
        if isinstance(arguments, dict):
            call.whole = arguments
        else:
            call.pieces.append(as_str(arguments))

    def _call_for(self, index: int | None, call_id: str, name: str) -> _Call:
        known = self._by_index.get(index) if index is not None else (self._calls[-1] if self._calls else None)
        if known is not None and not _begins_another(known, index, call_id, name):
            return known
        call = _Call()
        self._calls.append(call)
        if index is not None:
            self._by_index[index] = call
        return call

    def reply(self) -> ModelReply:
        parts: list[Part] = []
        if self._details:
            merged: list[JsonValue] = [*_merge_details(self._details)]
            parts.append(OpaquePart(driver=self.provider, data={_REASONING_DETAILS: merged}))
        text = "".join(self._text)
        if text:
            parts.append(TextPart(text=text))
        parts.extend(call.part() for call in self._calls)
        return ModelReply(
            parts=tuple(parts), finish_reason=self._reason(), usage=self._usage, response_id=self._response_id
        )

    def _reason(self) -> FinishReason:
        if self._refused:
            return FinishReason.BLOCKED
        reason = _FINISH.get(self._finish or "", FinishReason.UNKNOWN)
        # Some servers end a message with tool calls in it with "stop".
        return FinishReason.TOOL_CALLS if self._calls and reason is FinishReason.COMPLETED else reason

    def whole(self, document: JsonObject) -> ModelReply | None:
        choices: list[JsonValue] = []
        for choice in map(as_object, as_list(document.get("choices"))):
            message = as_object(choice.get("message"))
            calls = as_list(message.get("tool_calls"))
            numbered: list[JsonValue] = [{**as_object(call), "index": index} for index, call in enumerate(calls)]
            choices.append({**choice, "delta": {**message, "tool_calls": numbered}})
        self.event({**document, "choices": choices})
        return self.reply() if self.complete else None


def _visible(content: JsonValue) -> str:
    """Return the text of a content field: a string, or with some servers a list of typed pieces."""
    if isinstance(content, list):
        pieces = map(as_object, content)
        return "".join(as_str(piece.get("text")) for piece in pieces if piece.get("type") == "text")
    return as_str(content)


def _usage(usage: JsonObject) -> Usage:
    return Usage(
        input_tokens=as_int(usage.get("prompt_tokens")),
        output_tokens=as_int(usage.get("completion_tokens")),
        cached_input_tokens=as_int(as_object(usage.get("prompt_tokens_details")).get("cached_tokens")),
        cost_usd=as_amount(usage.get("cost")),
    )


def _merge_details(details: Iterable[JsonObject]) -> list[JsonObject]:
    """Join the streamed pieces of each reasoning detail; what is replayed must be what a whole reply would hold."""
    merged: list[JsonObject] = []
    for detail in details:
        last = merged[-1] if merged else {}
        same = all(last.get(key) == detail.get(key) for key in ("type", "index")) and bool(merged)
        if not same or detail.get("type") == "reasoning.encrypted":
            merged.append(dict(detail))
            continue
        for key, value in detail.items():
            if key in ("text", "summary") and isinstance(value, str):
                last[key] = as_str(last.get(key)) + value
            elif value not in (None, ""):
                last[key] = value
    return merged
