"""The Anthropic Messages wire."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace

from kheish.core.jsonvalue import JsonObject, JsonValue, encode
from kheish.core.messages import (
    FinishReason,
    Generation,
    Message,
    OpaquePart,
    Part,
    Reasoning,
    ReasoningEffort,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    Usage,
)
from kheish.providers.drivers import Driver
from kheish.providers.json_schemas import json_instruction, project
from kheish.providers.model_table import ANTHROPIC_UNSET_MAX_TOKENS, output_caps, takes_temperature, thinks_adaptively
from kheish.providers.protocol import ModelReply, ModelRequest, TextDelta
from kheish.providers.transport import ModelEndpoint
from kheish.providers.upstream_errors import local_error, upstream_error
from kheish.providers.wire import as_int, as_list, as_object, as_str, call_part, load, output_text, wire_call_id
from kheish.providers.written import WrittenRequests

_DRIVER = Driver.ANTHROPIC.value
_INTERLEAVED_BETA = "interleaved-thinking-2025-05-14"
_MIN_THINKING_TOKENS = 1024
_EPHEMERAL: JsonObject = {"type": "ephemeral"}
_STOP_REASONS = {
    "end_turn": FinishReason.COMPLETED,
    "tool_use": FinishReason.TOOL_CALLS,
    "max_tokens": FinishReason.MAX_TOKENS,
    "model_context_window_exceeded": FinishReason.MAX_TOKENS,
    "stop_sequence": FinishReason.STOP_SEQUENCE,
    "refusal": FinishReason.BLOCKED,
}
_EFFORTS = {
    ReasoningEffort.MINIMAL: "low",
    ReasoningEffort.LOW: "low",
    ReasoningEffort.MEDIUM: "medium",
    ReasoningEffort.HIGH: "high",
    ReasoningEffort.XHIGH: "max",
}
# What an effort means to a model that only knows token budgets.
_BUDGETS = {
    ReasoningEffort.MINIMAL: 1_024,
    ReasoningEffort.LOW: 2_048,
    ReasoningEffort.MEDIUM: 8_192,
    ReasoningEffort.HIGH: 16_384,
    ReasoningEffort.XHIGH: 32_768,
}


class AnthropicProvider:
    """One Messages endpoint."""

    driver = _DRIVER

    def __init__(self, endpoint: ModelEndpoint, *, betas: tuple[str, ...] = ()) -> None:
        self._endpoint = endpoint
        self._betas = betas
        self._endpoints: dict[bool, ModelEndpoint] = {}
        """By whether thinking may be interleaved, which is said in a header."""
        self._written = WrittenRequests(_DRIVER, _body, lambda request: encode(_messages(request.messages))[1:-1])

    def stream(self, request: ModelRequest) -> AsyncGenerator[TextDelta | ModelReply, None]:
        """Yield the reply as it arrives; see `Provider.stream`."""
        content = self._written.content(request)
        endpoint = self._endpoint_for(request.generation.reasoning)
        return endpoint.stream(content, MessagesDecoder(), before_send=request.before_send)

    def _endpoint_for(self, reasoning: Reasoning | None) -> ModelEndpoint:
        interleaved = reasoning is not None and reasoning.interleaved
        known = self._endpoints.get(interleaved)
        if known is None:
            headers = {**self._endpoint.headers, **beta_headers(self._betas, reasoning)}
            known = self._endpoints[interleaved] = replace(self._endpoint, headers=headers)
        return known


def beta_headers(configured: tuple[str, ...], reasoning: Reasoning | None) -> dict[str, str]:
    """Return the `anthropic-beta` header, without repetitions; empty when there is nothing to say."""
    interleaved = (_INTERLEAVED_BETA,) if reasoning is not None and reasoning.interleaved else ()
    names = dict.fromkeys((*configured, *interleaved))
    return {"anthropic-beta": ",".join(names)} if names else {}


def build_body(request: ModelRequest) -> JsonObject:
    """Return the request body.

    Raises:
        ProviderError: the request asks for thinking and forces a tool, which the provider refuses.
    """
    return _body(request, _messages(request.messages))


def _body(request: ModelRequest, messages: list[JsonValue]) -> JsonObject:
    generation = request.generation
    caps = output_caps(request.model)
    wanted = generation.max_output_tokens or min(caps.default, ANTHROPIC_UNSET_MAX_TOKENS)
    thinking = _thinking_fields(request, min(wanted, caps.upper))
    body: JsonObject = {
        "model": request.model,
        "max_tokens": min(wanted, caps.upper),
        "stream": True,
        "messages": messages,
        "cache_control": _EPHEMERAL,  # the conversation so far: the provider marks its end itself
        **_tool_fields(request),
        **thinking,
    }
    system = _system(request)
    if system:
        body["system"] = system
    if generation.temperature is not None and not thinking and takes_temperature(request.model):
        body["temperature"] = generation.temperature
    return body


def _system(request: ModelRequest) -> list[JsonValue]:
    """What is the same for every session comes first and is marked, so that all of them share its cache."""
    stable = "\n\n".join(section for section in request.system if section)
    blocks: list[JsonValue] = [{"type": "text", "text": stable, "cache_control": _EPHEMERAL}] if stable else []
    if instruction := _json_instruction(request.generation):
        blocks.append({"type": "text", "text": instruction})
    return blocks


def _thinking_fields(request: ModelRequest, max_tokens: int) -> JsonObject:
    reasoning = request.generation.reasoning
    if reasoning is None or reasoning.effort is ReasoningEffort.NONE:
        return {}
    if reasoning.effort is None and reasoning.budget_tokens is None:
        return {}
    if request.generation.tool_choice.type in ("required", "specific"):
        raise local_error(_DRIVER, "thinking cannot be combined with a forced tool choice")
    if thinks_adaptively(request.model):
        fields: JsonObject = {"thinking": {"type": "adaptive"}}
        if reasoning.effort is not None:
            fields["output_config"] = {"effort": _EFFORTS[reasoning.effort]}
        return fields
    budget = reasoning.budget_tokens or (_BUDGETS[reasoning.effort] if reasoning.effort else 0)
    budget = max(_MIN_THINKING_TOKENS, budget)
    thinking: JsonObject = {"type": "enabled", "budget_tokens": budget}
    if budget < max_tokens:
        return {"thinking": thinking}
    # The budget counts towards max_tokens and must stay below it: the answer keeps the room it was promised.
    upper = output_caps(request.model).upper
    thinking["budget_tokens"] = min(budget, upper - _MIN_THINKING_TOKENS)
    return {"thinking": thinking, "max_tokens": min(budget + max_tokens, upper)}


def _tool_fields(request: ModelRequest) -> JsonObject:
    choice = request.generation.tool_choice
    if not request.tools or choice.type == "none":
        return {}
    made: JsonObject = {"type": "auto"}
    if choice.type == "required":
        made = {"type": "any"}
    elif choice.type == "specific":
        made = {"type": "tool", "name": choice.name}
    made["disable_parallel_tool_use"] = not request.generation.allow_parallel_tool_calls
    tools: list[JsonObject] = [
        {"name": tool.name, "description": tool.description, "input_schema": tool.input_schema}
        for tool in request.tools
    ]
    tools[-1]["cache_control"] = _EPHEMERAL  # they come before everything else, whatever the instructions are
    return {"tools": [*tools], "tool_choice": made}


def _json_instruction(generation: Generation) -> str:
    if generation.response_format.type != "structured_json":
        return ""
    return json_instruction(project(generation.response_format.schema or {"kind": "any"}))


def _messages(messages: tuple[Message, ...]) -> list[JsonValue]:
    """Turn the conversation into alternating turns: what is not the assistant's belongs to the user's turn."""
    turns: list[tuple[str, list[JsonValue]]] = []
    for message in messages:
        role = "assistant" if message.role is Role.ASSISTANT else "user"
        blocks: list[JsonValue] = [block for part in message.parts if (block := _block(part)) is not None]
        if not blocks:
            continue
        if turns and turns[-1][0] == role:
            turns[-1][1].extend(blocks)
        else:
            turns.append((role, blocks))
    return [{"role": role, "content": _results_first(blocks) if role == "user" else blocks} for role, blocks in turns]


def _results_first(blocks: list[JsonValue]) -> list[JsonValue]:
    """Order a user turn as the provider demands: the answers to its calls before any text."""
    return sorted(blocks, key=lambda block: as_object(block).get("type") != "tool_result")


def _block(part: Part) -> JsonObject | None:
    match part:
        case TextPart():
            return {"type": "text", "text": part.text} if part.text.strip() else None
        case ToolCallPart():
            return {"type": "tool_use", "id": wire_call_id(part.call_id), "name": part.name, "input": part.input}
        case ToolResultPart():
            text = output_text(part, mark_error=False)
            content: list[JsonValue] = [{"type": "text", "text": text}] if text.strip() else []
            block: JsonObject = {
                "type": "tool_result",
                "tool_use_id": wire_call_id(part.call_id),
                "content": content,
            }
            return {**block, "is_error": True} if part.is_error else block
        case OpaquePart():
            return as_object(part.data) or None if part.driver == _DRIVER else None


@dataclass(slots=True)
class _Block:
    """A content block while its deltas arrive; pieces are joined once, at the end."""

    fields: JsonObject
    pieces: dict[str, list[str]] = field(default_factory=dict)
    text_number: int = 0

    def add(self, key: str, piece: str) -> None:
        self.pieces.setdefault(key, []).append(piece)

    def joined(self, key: str) -> str:
        return as_str(self.fields.get(key)) + "".join(self.pieces.get(key, ()))


@dataclass(slots=True)
class MessagesDecoder:
    """Puts one reply together from the events of a Messages stream."""

    provider: str = _DRIVER
    _blocks: dict[int, _Block] = field(default_factory=dict)
    _stop_reason: str | None = None
    _stopped: bool = False
    _usage: JsonObject = field(default_factory=dict)
    _response_id: str | None = None

    @property
    def complete(self) -> bool:
        return self._stop_reason is not None

    @property
    def finished(self) -> bool:
        return self._stopped

    def event(self, event: JsonObject) -> list[TextDelta]:
        match event.get("type"):
            case "content_block_delta":
                return self._delta(as_int(event.get("index")), as_object(event.get("delta")))
            case "content_block_start":
                return self._start(as_int(event.get("index")), as_object(event.get("content_block")))
            case "message_start":
                self._message(as_object(event.get("message")))
            case "message_delta":
                self._stop_reason = as_str(as_object(event.get("delta")).get("stop_reason")) or self._stop_reason
                self._count(event.get("usage"))
            case "message_stop":
                self._stopped = True
            case "error":
                raise upstream_error(self.provider, "stream", event)
        return []

    def _message(self, message: JsonObject) -> None:
        self._response_id = as_str(message.get("id")) or None
        self._stop_reason = as_str(message.get("stop_reason")) or None
        self._count(message.get("usage"))

    def _count(self, usage: JsonValue) -> None:
        """Take a snapshot: what it mentions replaces what was known, what it leaves out stays."""
        self._usage.update({key: value for key, value in as_object(usage).items() if value is not None})

    def _start(self, index: int, block: JsonObject) -> list[TextDelta]:
        texts = sum(known.fields.get("type") == "text" for known in self._blocks.values())
        self._blocks[index] = _Block(fields=dict(block), text_number=texts)
        first = as_str(block.get("text")) if block.get("type") == "text" else ""
        return [TextDelta(text=first, part=texts)] if first else []

    def _delta(self, index: int, delta: JsonObject) -> list[TextDelta]:
        block = self._blocks.get(index)
        if block is None:
            return []
        match delta.get("type"):
            case "text_delta":
                piece = as_str(delta.get("text"))
                block.add("text", piece)
                return [TextDelta(text=piece, part=block.text_number)] if piece else []
            case "input_json_delta":
                block.add("input", as_str(delta.get("partial_json")))
            case "thinking_delta":
                block.add("thinking", as_str(delta.get("thinking")))
            case "signature_delta":
                block.fields["signature"] = as_str(delta.get("signature"))
            case "citations_delta":
                block.fields["citations"] = [*as_list(block.fields.get("citations")), delta.get("citation")]
            case "compaction_delta":
                block.fields.update({key: delta[key] for key in ("content", "encrypted_content") if delta.get(key)})
        return []

    def reply(self) -> ModelReply:
        parts = [part for _, block in sorted(self._blocks.items()) if (part := self._part(block)) is not None]
        return ModelReply(
            parts=tuple(parts),
            finish_reason=_STOP_REASONS.get(self._stop_reason or "", FinishReason.UNKNOWN),
            usage=_usage(self._usage),
            response_id=self._response_id,
        )

    def _part(self, block: _Block) -> Part | None:
        kind = block.fields.get("type")
        if kind == "text":
            text = block.joined("text")
            return TextPart(text=text) if text else None
        pieces = "".join(block.pieces.get("input", ()))
        if kind == "tool_use":
            return call_part(
                name=as_str(block.fields.get("name")),
                arguments=pieces or block.fields.get("input"),
                provider_call_id=as_str(block.fields.get("id")),
            )
        fields = dict(block.fields)
        for key in block.pieces.keys() - {"input"}:
            fields[key] = block.joined(key)
        if pieces:
            fields["input"] = _server_tool_input(pieces)
        return OpaquePart(driver=self.provider, data=fields)

    def whole(self, document: JsonObject) -> ModelReply | None:
        self._message(document)
        for index, block in enumerate(as_list(document.get("content"))):
            self._start(index, as_object(block))
        return self.reply() if self.complete else None


def _server_tool_input(text: str) -> JsonValue:
    try:
        return load(text.encode("utf-8", "replace"))
    except ValueError:
        return {}


def _usage(usage: JsonObject) -> Usage:
    """Count all input: the provider lists what it read from and wrote to its cache beside the rest."""
    cached = as_int(usage.get("cache_read_input_tokens"))
    written = as_int(usage.get("cache_creation_input_tokens"))
    return Usage(
        input_tokens=as_int(usage.get("input_tokens")) + cached + written,
        output_tokens=as_int(usage.get("output_tokens")),
        cached_input_tokens=cached,
        cache_write_tokens=written,
    )
