"""Models through the optional pydantic-ai library, for vendors without a driver of their own.

The library streams slower and takes more memory than our own wires, and keys come from the environment it documents.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from pydantic_ai import messages as library
from pydantic_ai.direct import model_request_stream
from pydantic_ai.exceptions import (
    ModelAPIError,
    ModelConnectionError,
    ModelHTTPError,
    ModelRequestTimeout,
    UnexpectedModelBehavior,
    UserError,
)
from pydantic_ai.models import Model, ModelRequestParameters, StreamedResponse, infer_model
from pydantic_ai.settings import ModelSettings, ThinkingLevel
from pydantic_ai.tools import ToolDefinition

from kheish.core.jsonvalue import JsonValue
from kheish.core.messages import Generation, ReasoningEffort
from kheish.providers.drivers import Driver
from kheish.providers.json_schemas import json_instruction, project
from kheish.providers.limits import Limits
from kheish.providers.protocol import ErrorKind, ModelReply, ModelRequest, ProviderError, TextDelta
from kheish.providers.pydantic_ai_messages import from_library, to_library
from kheish.providers.upstream_errors import local_error, transport_error, upstream_error

_DRIVER = Driver.PYDANTIC_AI.value
_EFFORTS: dict[ReasoningEffort, ThinkingLevel] = {
    ReasoningEffort.NONE: False,
    ReasoningEffort.MINIMAL: "minimal",
    ReasoningEffort.LOW: "low",
    ReasoningEffort.MEDIUM: "medium",
    ReasoningEffort.HIGH: "high",
    ReasoningEffort.XHIGH: "xhigh",
}


class PydanticAiProvider:
    """Calls any model the library knows by its name, such as `bedrock:us.amazon.nova-pro-v1:0`."""

    driver = _DRIVER

    def __init__(self, limits: Limits, *, build: Callable[[str], Model] = infer_model) -> None:
        self._limits = limits
        self._build = build
        self._models: dict[str, Model] = {}

    async def stream(self, request: ModelRequest) -> AsyncGenerator[TextDelta | ModelReply, None]:
        """Yield the reply as it arrives; see `Provider.stream`."""
        settings = _settings(request.generation)
        model = await self._model(request.model)
        try:
            async with model_request_stream(
                model,
                to_library(request.messages, _system(request)),
                model_settings=settings,
                model_request_parameters=_parameters(request),
            ) as response:
                async for delta in self._deltas(response):
                    yield delta
                whole = response.get()
        except ProviderError:
            raise
        # The library and the vendors' clients under it are not ours; whatever they raise becomes a classified error.
        except Exception as error:
            raise classified(error) from None
        # A clean end is taken for a whole reply by the library; the vendor's own word tells the two apart.
        if not (whole.provider_details or {}).get("finish_reason"):
            raise transport_error(_DRIVER, "stream", "cut short before the end of the reply")
        yield from_library(whole)

    async def _model(self, name: str) -> Model:
        known = self._models.get(name)
        if known is not None:
            return known
        try:
            # Off the loop: the first model of a vendor imports that vendor's client.
            made = await asyncio.to_thread(self._build, name)
        # An unknown name, a missing key, a package that is not installed: each vendor has its own way to say so.
        except Exception as error:
            raise local_error(_DRIVER, f"its model cannot be set up ({type(error).__name__})") from None
        return self._models.setdefault(name, made)

    async def _deltas(self, response: StreamedResponse) -> AsyncIterator[TextDelta]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._limits.whole
        numbers: dict[int, int] = {}
        events = aiter(response)
        while True:
            limit = min(loop.time() + self._limits.inactivity, deadline)
            try:
                async with asyncio.timeout_at(limit):
                    event = await anext(events, None)
            except TimeoutError:
                late = loop.time() >= deadline
                span = f"timed out, no end within {self._limits.whole:g} s"
                silence = f"inactive, nothing received for {self._limits.inactivity:g} s"
                raise transport_error(_DRIVER, "stream", span if late else silence) from None
            if event is None:
                return
            text = _text(event)
            if text:
                index = event.index  # type: ignore[union-attr]  # only events of parts have a text
                yield TextDelta(text=text, part=numbers.setdefault(index, len(numbers)))


def _text(event: object) -> str:
    match event:
        case library.PartStartEvent(part=library.TextPart(content=text)):
            return text
        case library.PartDeltaEvent(delta=library.TextPartDelta(content_delta=text)):
            return text
        case _:
            return ""


def _system(request: ModelRequest) -> tuple[str, ...]:
    wanted = request.generation.response_format
    if wanted.type != "structured_json":
        return request.system
    return (*request.system, json_instruction(project(wanted.schema or {"kind": "any"})))


def _settings(generation: Generation) -> ModelSettings:
    settings = ModelSettings(max_retries=0)  # retries belong to the run
    if generation.max_output_tokens is not None:
        settings["max_tokens"] = generation.max_output_tokens
    if generation.temperature is not None:
        settings["temperature"] = generation.temperature
    if not generation.allow_parallel_tool_calls:
        settings["parallel_tool_calls"] = False
    choice = generation.tool_choice
    if choice.type == "specific":
        settings["tool_choice"] = [choice.name or ""]
    elif choice.type in ("none", "required"):
        settings["tool_choice"] = "none" if choice.type == "none" else "required"
    reasoning = generation.reasoning
    if reasoning is not None:
        if reasoning.budget_tokens is not None or reasoning.interleaved:
            raise local_error(_DRIVER, "of reasoning it knows the effort only")
        if reasoning.effort is not None:
            settings["thinking"] = _EFFORTS[reasoning.effort]
    return settings


def _parameters(request: ModelRequest) -> ModelRequestParameters:
    tools = [
        ToolDefinition(name=tool.name, description=tool.description, parameters_json_schema=dict(tool.input_schema))
        for tool in request.tools
    ]
    return ModelRequestParameters(function_tools=tools)


def classified(error: Exception) -> ProviderError:
    """Turn what the library raised into our error; of its words nothing survives but status, type and code."""
    if isinstance(error, ModelHTTPError):
        wish = None if error.retry_after is None else int(min(max(error.retry_after, 0), 60) * 1000)
        body = error.body if isinstance(error.body, dict | list | str) else str(error.body)
        payload: JsonValue = {"error": body} if isinstance(body, dict) and "error" not in body else body
        return upstream_error(_DRIVER, "request", payload, status=error.status_code, retry_after_ms=wish)
    name = type(error).__name__
    if isinstance(error, ModelConnectionError | ModelRequestTimeout):
        return transport_error(_DRIVER, "request", f"connection failed ({name})")
    if isinstance(error, UserError):
        return local_error(_DRIVER, f"the library refuses it ({name})")
    if isinstance(error, ModelAPIError):
        return upstream_error(_DRIVER, "stream", str(error))
    if isinstance(error, UnexpectedModelBehavior):
        return transport_error(_DRIVER, "reply", f"unreadable ({name})")
    return ProviderError(f"{_DRIVER} request failed ({name})", kind=ErrorKind.UNKNOWN, retryable=True)
