"""The Gemini wire: `streamGenerateContent`, one URL per model."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from dataclasses import replace
from functools import lru_cache
from urllib.parse import quote

from kheish.core.jsonvalue import JsonObject, JsonValue, encode
from kheish.core.messages import (
    Message,
    OpaquePart,
    Reasoning,
    ReasoningEffort,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from kheish.providers.drivers import Driver
from kheish.providers.google_stream import GeminiDecoder
from kheish.providers.json_schemas import json_instruction, project
from kheish.providers.model_table import output_caps
from kheish.providers.protocol import ModelReply, ModelRequest, TextDelta
from kheish.providers.transport import ModelEndpoint
from kheish.providers.upstream_errors import local_error
from kheish.providers.wire import as_object, wire_call_id
from kheish.providers.written import WrittenRequests

_DRIVER = Driver.GOOGLE.value
_SIGNATURE = "thoughtSignature"
_FOREIGN_CALL_SIGNATURE = "skip_thought_signature_validator"
"""What the provider wants on calls that another model made, or an older one of its own."""
# What an effort means to a model that only knows token budgets.
_BUDGETS = {
    ReasoningEffort.NONE: 0,
    ReasoningEffort.MINIMAL: 1_024,
    ReasoningEffort.LOW: 1_024,
    ReasoningEffort.MEDIUM: 8_192,
    ReasoningEffort.HIGH: 24_576,
    ReasoningEffort.XHIGH: 24_576,
}
_LEVELS = {
    ReasoningEffort.NONE: "MINIMAL",  # these models cannot stop thinking altogether
    ReasoningEffort.MINIMAL: "MINIMAL",
    ReasoningEffort.LOW: "LOW",
    ReasoningEffort.MEDIUM: "MEDIUM",
    ReasoningEffort.HIGH: "HIGH",
    ReasoningEffort.XHIGH: "HIGH",
}
# Levels a model does not have, and its nearest one.
_LEVELS_OF: tuple[tuple[str, dict[str, str]], ...] = (
    ("gemini-3-pro", {"MINIMAL": "LOW", "MEDIUM": "HIGH"}),
    ("gemini-3.1-pro", {"MINIMAL": "LOW"}),
)
_PRO_MIN_BUDGET = 128
"""The pro models of 2.5 think always, at least this much."""
_MODELS = 32
"""Whose addresses are kept at the same time."""


class GoogleProvider:
    """One Gemini endpoint; the model's name goes into its URL."""

    driver = _DRIVER

    def __init__(self, endpoint: ModelEndpoint) -> None:
        self._endpoint_of = lru_cache(_MODELS)(lambda model: replace(endpoint, url=model_url(endpoint.url, model)))
        self._written = WrittenRequests(_DRIVER, _body, lambda request: encode(_contents(request))[1:-1])

    def stream(self, request: ModelRequest) -> AsyncGenerator[TextDelta | ModelReply, None]:
        """Yield the reply as it arrives; see `Provider.stream`."""
        content = self._written.content(request)
        endpoint = self._endpoint_of(request.model)
        return endpoint.stream(content, GeminiDecoder(), before_send=request.before_send)


def model_url(endpoint: str, model: str) -> str:
    """Return the URL of one model's stream; `{model}` in the endpoint stands for its name."""
    url = endpoint.replace("{model}", quote(model.removeprefix("models/"), safe=""))
    return f"{url}?alt=sse" if url.endswith(":streamGenerateContent") else url


def build_body(request: ModelRequest) -> JsonObject:
    """Return the request body.

    Raises:
        ProviderError: the request asks for something this wire cannot say.
    """
    return _body(request, _contents(request))


def _body(request: ModelRequest, contents: list[JsonValue]) -> JsonObject:
    generation = request.generation
    caps = output_caps(request.model)
    config: JsonObject = {"maxOutputTokens": min(generation.max_output_tokens or caps.default, caps.upper)}
    if generation.temperature is not None:
        config["temperature"] = generation.temperature
    thinking = _thinking(request.model, generation.reasoning)
    if thinking:
        config["thinkingConfig"] = thinking
    instructions = [section for section in request.system if section]
    if generation.response_format.type == "structured_json":
        schema = project(generation.response_format.schema or {"kind": "any"})
        if _takes_schema(request):
            config["responseMimeType"] = "application/json"
            config["responseJsonSchema"] = schema
        else:
            instructions.append(json_instruction(schema))
    body: JsonObject = {"contents": contents, "generationConfig": config, **_tool_fields(request)}
    if instructions:
        body["systemInstruction"] = {"parts": [{"text": "\n\n".join(instructions)}]}
    return body


def _knows_only_budgets(model: str) -> bool:
    return model.lower().removeprefix("models/").startswith("gemini-2.5")


def _before_3(model: str) -> bool:
    return model.lower().removeprefix("models/").startswith(("gemini-1", "gemini-2"))


def _takes_schema(request: ModelRequest) -> bool:
    """Models before 3 refuse a schema for the reply beside tools."""
    return not request.tools or not _before_3(request.model)


def _thinking(model: str, reasoning: Reasoning | None) -> JsonObject:
    if reasoning is None:
        return {}
    if reasoning.interleaved:
        raise local_error(_DRIVER, "reasoning.interleaved is not known to this driver")
    fields: JsonObject = {}
    if reasoning.budget_tokens is not None:
        fields["thinkingBudget"] = reasoning.budget_tokens
    elif reasoning.effort is not None and _knows_only_budgets(model):
        budget = _BUDGETS[reasoning.effort]
        fields["thinkingBudget"] = max(budget, _PRO_MIN_BUDGET) if "-pro" in model.lower() else budget
    elif reasoning.effort is not None:
        level, name = _LEVELS[reasoning.effort], model.lower().removeprefix("models/")
        replaced = next((levels for prefix, levels in _LEVELS_OF if name.startswith(prefix)), {})
        fields["thinkingLevel"] = replaced.get(level, level)
    if reasoning.summary not in (None, "none"):
        fields["includeThoughts"] = True
    return fields


def _tool_fields(request: ModelRequest) -> JsonObject:
    """There is no switch against several calls in one message: the engine orders them."""
    if not request.tools:
        return {}
    declarations: list[JsonValue] = [
        {"name": tool.name, "description": tool.description, "parametersJsonSchema": tool.input_schema}
        for tool in request.tools
    ]
    fields: JsonObject = {"tools": [{"functionDeclarations": declarations}]}
    choice = request.generation.tool_choice
    mode = {"none": "NONE", "required": "ANY", "specific": "ANY"}.get(choice.type)
    if mode is not None:
        calling: JsonObject = {"mode": mode}
        if choice.type == "specific":
            calling["allowedFunctionNames"] = [choice.name]
        fields["toolConfig"] = {"functionCallingConfig": calling}
    return fields


def _contents(request: ModelRequest) -> list[JsonValue]:
    """Turn the conversation into alternating turns of user and model."""
    turns: list[tuple[str, list[JsonValue]]] = []
    for message in request.messages:
        role = "model" if message.role is Role.ASSISTANT else "user"
        parts: list[JsonValue] = list(_model_parts(message, request.model) if role == "model" else _user_parts(message))
        if not parts:
            continue
        if turns and turns[-1][0] == role:
            turns[-1][1].extend(parts)
        else:
            turns.append((role, parts))
    return [{"role": role, "parts": parts} for role, parts in turns]


def _user_parts(message: Message) -> Iterable[JsonObject]:
    for part in message.parts:
        if isinstance(part, ToolResultPart):
            key = "error" if part.is_error else "output"
            name, call_id = part.name, wire_call_id(part.call_id)
            yield {"functionResponse": {"id": call_id, "name": name, "response": {key: part.output}}}
        elif isinstance(part, TextPart) and part.text:
            yield {"text": part.text}


def _model_parts(message: Message, model: str) -> Iterable[JsonObject]:
    signature: JsonValue = None
    unsigned = None if _before_3(model) else _FOREIGN_CALL_SIGNATURE  # for the first call of the message
    for part in message.parts:
        match part:
            case OpaquePart(driver=driver, data=data) if driver == _DRIVER:
                kept = as_object(data)
                if kept.keys() == {_SIGNATURE}:
                    signature = kept[_SIGNATURE]
                elif kept:
                    yield kept
            case TextPart(text=text) if text:
                yield _signed({"text": text}, signature)
                signature = None
            case ToolCallPart():
                call: JsonObject = {"id": wire_call_id(part.call_id), "name": part.name, "args": part.input}
                yield _signed({"functionCall": call}, signature or unsigned)
                signature = unsigned = None
    if signature is not None:
        yield _signed({"text": ""}, signature)


def _signed(part: JsonObject, signature: JsonValue) -> JsonObject:
    return {**part, _SIGNATURE: signature} if signature else part
