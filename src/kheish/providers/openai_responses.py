"""The Responses wire: `openai`, and `xai` with its differences.

Where replies are stored upstream a request carries what is new since the last one; everywhere else, and when the
provider no longer knows that reply, it carries the whole input.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import replace

from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.core.messages import (
    Message,
    OpaquePart,
    Reasoning,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    ToolSpec,
)
from kheish.core.values import value_class
from kheish.providers.drivers import Driver
from kheish.providers.json_schemas import project, strict
from kheish.providers.model_table import (
    is_openai_reasoning,
    is_xai_reasoning,
    output_caps,
    structures_beside_tools,
    takes_temperature,
)
from kheish.providers.protocol import ModelReply, ModelRequest, ProviderError, TextDelta
from kheish.providers.responses_stream import MESSAGE_PHASE, ResponsesDecoder
from kheish.providers.transport import ModelEndpoint
from kheish.providers.upstream_errors import local_error
from kheish.providers.wire import arguments_text, output_text, wire_call_id
from kheish.providers.written import written_whole

_MAX_CACHE_KEY = 64


@value_class(frozen=True, kw_only=True, slots=True)
class Dialect:
    """In what one vendor's Responses wire differs from another's."""

    driver: str
    instructions_as_message: bool = False
    """The instructions are the first message of the input, not a field."""
    strict_tools: bool = True
    says_plain_text: bool = True
    """A reply in plain text is asked for by name."""
    asks_for_a_ceiling: bool = True
    """Without a ceiling in the request the model's default is sent; else the vendor's own applies."""
    stores: bool = False
    """Replies are kept upstream, and requests go on from them."""
    reasons: Callable[[str], bool] = is_openai_reasoning
    structured_with_tools: Callable[[str], bool] = lambda model: True


OPENAI = Dialect(driver=Driver.OPENAI.value, stores=True)
XAI = Dialect(
    driver=Driver.XAI.value,
    instructions_as_message=True,
    strict_tools=False,
    says_plain_text=False,
    asks_for_a_ceiling=False,
    reasons=is_xai_reasoning,
    structured_with_tools=structures_beside_tools,
)


class ResponsesProvider:
    """One Responses endpoint."""

    def __init__(self, endpoint: ModelEndpoint, dialect: Dialect = OPENAI) -> None:
        self.driver = dialect.driver
        self._dialect = dialect
        self._endpoint = endpoint

    def stream(self, request: ModelRequest) -> AsyncGenerator[TextDelta | ModelReply, None]:
        """Yield the reply as it arrives; see `Provider.stream`."""
        return self._attempt(request) if request.continues is None else self._continued(request)

    async def _continued(self, request: ModelRequest) -> AsyncGenerator[TextDelta | ModelReply, None]:
        try:
            async with aclosing(self._attempt(request)) as events:
                async for event in events:
                    yield event
        except ProviderError as error:
            if not error.lost_continuation:
                raise
        else:
            return
        # Refused before anything was said: the same call once more, with everything the provider does not know.
        async with aclosing(self._attempt(replace(request, continues=None))) as events:
            async for event in events:
                yield event

    def _attempt(self, request: ModelRequest) -> AsyncGenerator[TextDelta | ModelReply, None]:
        content = written_whole(self.driver, build_body(request, self._dialect))
        return self._endpoint.stream(content, ResponsesDecoder(self.driver), before_send=request.before_send)


def build_body(request: ModelRequest, dialect: Dialect = OPENAI) -> JsonObject:
    """Return the request body.

    Raises:
        ProviderError: the request asks for something this wire or this model cannot do.
    """
    generation = request.generation
    body: JsonObject = {
        "model": request.model,
        "stream": True,
        "store": dialect.stores,
        **_input_fields(request, dialect),
        **_text_fields(request, dialect),
        **_tool_fields(request, dialect),
        **_reasoning_fields(generation.reasoning, dialect),
    }
    caps = output_caps(request.model)
    ceiling = generation.max_output_tokens or (caps.default if dialect.asks_for_a_ceiling else None)
    if ceiling is not None:
        body["max_output_tokens"] = min(ceiling, caps.upper)
    if dialect.reasons(request.model):  # without it nothing could be replayed once nothing is stored
        body["include"] = ["reasoning.encrypted_content"]
    if generation.temperature is not None and takes_temperature(request.model):
        body["temperature"] = generation.temperature
    if request.cache_key:
        body["prompt_cache_key"] = _cache_key(request.cache_key)
    return body


def _input_fields(request: ModelRequest, dialect: Dialect) -> JsonObject:
    known = request.continues if dialect.stores else None
    messages = request.messages if known is None else request.messages[known.known_messages :]
    items: list[JsonValue] = [
        item for message in messages for item in _items(message, dialect.driver, answers_stored=known is not None)
    ]
    instructions = "\n\n".join(section for section in request.system if section)
    if known is not None:
        fields: JsonObject = {"input": items, "previous_response_id": known.response_id}
        return {**fields, "instructions": instructions} if instructions else fields
    if not instructions:
        return {"input": items}
    if dialect.instructions_as_message:
        return {"input": [{"role": "system", "content": instructions}, *items]}
    return {"input": items, "instructions": instructions}


def _cache_key(key: str) -> str:
    return key if len(key) <= _MAX_CACHE_KEY else hashlib.sha256(key.encode()).hexdigest()


def _text_fields(request: ModelRequest, dialect: Dialect) -> JsonObject:
    wanted = request.generation.response_format
    if wanted.type != "structured_json":
        return {"text": {"format": {"type": "text"}}} if dialect.says_plain_text else {}
    if request.tools and not dialect.structured_with_tools(request.model):
        raise local_error(dialect.driver, "this model cannot combine structured output with tools")
    schema = project(wanted.schema or {"kind": "any"})
    made = strict(schema)
    form: JsonObject = {
        "type": "json_schema",
        "name": "reply",
        "schema": made or schema,
        "strict": made is not None,
    }
    return {"text": {"format": form}}


def _tool_fields(request: ModelRequest, dialect: Dialect) -> JsonObject:
    if not request.tools:
        return {}
    choice = request.generation.tool_choice
    return {
        "tools": [_tool(tool, dialect) for tool in request.tools],
        "tool_choice": {"type": "function", "name": choice.name} if choice.type == "specific" else choice.type,
        "parallel_tool_calls": request.generation.allow_parallel_tool_calls,
    }


def _tool(tool: ToolSpec, dialect: Dialect) -> JsonObject:
    made = strict(tool.input_schema) if dialect.strict_tools else None
    fields: JsonObject = {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": made or tool.input_schema,
    }
    return {**fields, "strict": made is not None} if dialect.strict_tools else fields


def _reasoning_fields(reasoning: Reasoning | None, dialect: Dialect) -> JsonObject:
    if reasoning is None:
        return {}
    if reasoning.budget_tokens is not None:
        raise local_error(dialect.driver, "reasoning.budget_tokens is not known to this driver")
    if reasoning.interleaved:
        raise local_error(dialect.driver, "reasoning.interleaved is not known to this driver")
    fields: JsonObject = {"effort": reasoning.effort.value} if reasoning.effort else {}
    if reasoning.summary not in (None, "none"):
        fields["summary"] = reasoning.summary
    return {"reasoning": fields} if fields else {}


def _items(message: Message, driver: str, *, answers_stored: bool) -> Iterable[JsonObject]:
    """``answers_stored``: the calls were not sent by us, so they have the provider's own ids."""
    if message.role is Role.ASSISTANT:
        yield from _assistant_items(message, driver)
        return
    text: list[JsonValue] = []
    for part in message.parts:
        if isinstance(part, ToolResultPart):
            output = output_text(part, mark_error=True)
            own = part.provider_call_id if answers_stored else None
            yield {"type": "function_call_output", "call_id": own or wire_call_id(part.call_id), "output": output}
        elif isinstance(part, TextPart) and part.text:
            text.append({"type": "input_text", "text": part.text})
    if text:
        yield {"role": "system" if message.role is Role.SYSTEM else "user", "content": text}


def _assistant_items(message: Message, driver: str) -> Iterable[JsonObject]:
    phase: JsonValue = None
    for part in message.parts:
        match part:
            case OpaquePart(driver=made_by, data=dict() as data) if made_by == driver:
                if data.get("type") == MESSAGE_PHASE:
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
