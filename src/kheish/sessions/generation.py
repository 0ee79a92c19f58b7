"""`GenerationConfig` of the wire contract, and how two of them merge."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from kheish.core.jsonvalue import JsonObject, without_empty
from kheish.core.messages import Generation, Reasoning, ReasoningEffort, ResponseFormat, ToolChoice
from kheish.http.requests import Asked

_MAX_TOKENS = 2**31 - 1


class ToolChoiceConfig(Asked):
    """Whether the model may, must or must not call tools."""

    type: Literal["auto", "none", "required", "specific"] = "auto"
    name: str | None = None
    """Only with `specific`."""

    @model_validator(mode="after")
    def _named(self) -> ToolChoiceConfig:
        if (self.type == "specific") != bool(self.name):
            raise ValueError("`specific` needs a name, and only `specific` takes one")
        return self


def _from_word(value: object) -> object:
    return {"type": value} if isinstance(value, str) else value


class ReasoningConfig(Asked):
    """How much the model may think."""

    effort: ReasoningEffort | None = None
    summary: Literal["auto", "concise", "detailed", "none"] | None = None
    budget_tokens: int | None = Field(default=None, ge=1, le=_MAX_TOKENS)
    interleaved: bool = False


class SchemaNode(Asked):
    """One node of a structured answer's schema."""

    kind: Literal["any", "string", "number", "boolean", "object", "array"]
    fields: dict[str, SchemaNode] = Field(default_factory=dict)
    optional_fields: dict[str, SchemaNode] = Field(default_factory=dict)
    items: SchemaNode | None = None


class ResponseFormatConfig(Asked):
    """Plain text, or JSON of a given shape."""

    model_config = ConfigDict(populate_by_name=True)

    type: Literal["text", "structured_json"] = "text"
    node: SchemaNode | None = Field(default=None, alias="schema")

    @model_validator(mode="after")
    def _shaped(self) -> ResponseFormatConfig:
        if (self.type == "structured_json") != (self.node is not None):
            raise ValueError("`structured_json` needs a schema, and only `structured_json` takes one")
        return self


class GenerationConfig(Asked):
    """How to sample; a field at its default counts as not given."""

    model: str | None = None
    fallback_model: str | None = None
    tool_choice: Annotated[ToolChoiceConfig, BeforeValidator(_from_word)] = Field(default_factory=ToolChoiceConfig)
    allow_parallel_tool_calls: bool = True
    max_output_tokens: int | None = Field(default=None, ge=1, le=_MAX_TOKENS)
    temperature: float | None = Field(default=None, ge=0, le=100, allow_inf_nan=False)
    reasoning: ReasoningConfig | None = None
    response_format: ResponseFormatConfig = Field(default_factory=ResponseFormatConfig)


UNSET = Generation()
"""Nothing is said of how to sample."""


def to_generation(config: GenerationConfig | None) -> Generation:
    """The value the engine keeps."""
    if config is None:
        return UNSET
    node = config.response_format.node
    return Generation(
        model=config.model or None,
        fallback_model=config.fallback_model or None,
        tool_choice=ToolChoice(type=config.tool_choice.type, name=config.tool_choice.name),
        allow_parallel_tool_calls=config.allow_parallel_tool_calls,
        max_output_tokens=config.max_output_tokens,
        temperature=config.temperature,
        reasoning=_reasoning(config.reasoning),
        response_format=ResponseFormat(
            type=config.response_format.type, schema=None if node is None else node.model_dump(mode="json")
        ),
    )


def _reasoning(config: ReasoningConfig | None) -> Reasoning | None:
    if config is None:
        return None
    found = Reasoning(
        effort=config.effort,
        summary=config.summary,
        budget_tokens=config.budget_tokens,
        interleaved=config.interleaved,
    )
    return None if found == Reasoning() else found


def merge(base: Generation, override: Generation) -> Generation:
    """Lay ``override`` on ``base``: its fields at their type's default never override; reasoning merges by field."""
    if override is UNSET:
        return base
    given = {
        field.name: getattr(override, field.name)
        for field in fields(Generation)
        if field.name != "reasoning" and getattr(override, field.name) != getattr(UNSET, field.name)
    }
    return replace(base, **given, reasoning=_merge_reasoning(base.reasoning, override.reasoning))


def _merge_reasoning(base: Reasoning | None, override: Reasoning | None) -> Reasoning | None:
    if base is None or override is None:
        return override or base
    return Reasoning(
        effort=override.effort if override.effort is not None else base.effort,
        summary=override.summary if override.summary is not None else base.summary,
        budget_tokens=override.budget_tokens if override.budget_tokens is not None else base.budget_tokens,
        interleaved=base.interleaved or override.interleaved,
    )


def wire(config: GenerationConfig) -> JsonObject:
    """The config as responses show it: only what is given; `tool_choice` always as an object."""
    dumped: JsonObject = config.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
    if isinstance(reasoning := dumped.get("reasoning"), dict):
        dumped["reasoning"] = without_empty(reasoning)
    return without_empty(dumped)
