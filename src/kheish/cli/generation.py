"""The generation options, and model selectors of the form ROUTE/MODEL."""

from __future__ import annotations

import click

from kheish.cli.daemon_client import DaemonClient, as_object, as_rows
from kheish.cli.failures import Failure
from kheish.cli.options import F, bundled, json_pair
from kheish.cli.output import JsonObject, JsonValue
from kheish.core.values import value_class

_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")
_SUMMARIES = ("auto", "concise", "detailed", "none")


@value_class(frozen=True, kw_only=True, slots=True)
class GenerationFlags:
    """What was asked of the model; None or False where nothing was said."""

    model: str | None
    fallback_model: str | None
    temperature: float | None
    max_output_tokens: int | None
    reasoning_effort: str | None
    reasoning_summary: str | None
    reasoning_budget_tokens: int | None
    reasoning_interleaved: bool
    tool_choice: str | None
    tool_name: str | None
    serial_tools: bool
    response_format: str | None

    def to_wire(self, *, model: str | None, fallback_model: str | None, schema: JsonValue) -> JsonObject | None:
        """GenerationConfig with the resolved models; None when nothing was asked."""
        fields: dict[str, JsonValue] = {
            "model": model,
            "fallback_model": fallback_model,
            "temperature": self.temperature,
            "max_output_tokens": self.max_output_tokens,
            "reasoning": self._reasoning(),
            "tool_choice": self._tool_choice(),
            "allow_parallel_tool_calls": False if self.serial_tools else None,
            "response_format": self._response_format(schema),
        }
        return {name: value for name, value in fields.items() if value is not None} or None

    def _reasoning(self) -> JsonObject | None:
        fields: dict[str, JsonValue] = {
            "effort": self.reasoning_effort,
            "summary": self.reasoning_summary,
            "budget_tokens": self.reasoning_budget_tokens,
            "interleaved": True if self.reasoning_interleaved else None,
        }
        return {name: value for name, value in fields.items() if value is not None} or None

    def _tool_choice(self) -> JsonObject | None:
        if (self.tool_choice == "specific") != (self.tool_name is not None):
            raise click.UsageError("--tool-choice specific needs --tool-name, and only it takes one")
        if self.tool_choice is None:
            return None
        return {"type": self.tool_choice} if self.tool_name is None else {"type": "specific", "name": self.tool_name}

    def _response_format(self, schema: JsonValue) -> JsonObject | None:
        if (self.response_format == "structured-json") != (schema is not None):
            raise click.UsageError(
                "--response-format structured-json needs --response-schema-json or --response-schema-file, "
                "and only it takes one"
            )
        if self.response_format is None:
            return None
        return {"type": "text"} if schema is None else {"type": "structured_json", "schema": schema}


def generation_options(function: F) -> F:
    """Every generation option, as the arguments `generation` and `response_schema`."""
    return bundled(
        "generation",
        GenerationFlags,
        {
            "model": click.option("--model", metavar="[ROUTE/]MODEL", help="Model, or route and model."),
            "fallback_model": click.option(
                "--fallback-model", metavar="[ROUTE/]MODEL", help="Model of later attempts; same route."
            ),
            "temperature": click.option("--temperature", type=float),
            "max_output_tokens": click.option("--max-output-tokens", type=click.IntRange(min=1)),
            "reasoning_effort": click.option("--reasoning-effort", type=click.Choice(_EFFORTS)),
            "reasoning_summary": click.option("--reasoning-summary", type=click.Choice(_SUMMARIES)),
            "reasoning_budget_tokens": click.option("--reasoning-budget-tokens", type=click.IntRange(min=1)),
            "reasoning_interleaved": click.option("--reasoning-interleaved", is_flag=True),
            "tool_choice": click.option("--tool-choice", type=click.Choice(["auto", "none", "required", "specific"])),
            "tool_name": click.option("--tool-name", help="The tool of --tool-choice specific."),
            "serial_tools": click.option("--serial-tools", is_flag=True, help="One tool call at a time."),
            "response_format": click.option("--response-format", type=click.Choice(["text", "structured-json"])),
        },
    )(json_pair("response_schema", "Schema node of a structured answer.")(function))


@value_class(frozen=True, kw_only=True, slots=True)
class RoutedGeneration:
    """The route and generation a request carries; None where nothing was said."""

    provider: str | None
    generation: JsonObject | None

    def fields(self) -> JsonObject:
        """The request fields that are set."""
        found: JsonObject = {}
        if self.provider is not None:
            found["provider"] = self.provider
        if self.generation is not None:
            found["generation"] = self.generation
        return found


def route_generation(
    client: DaemonClient, flags: GenerationFlags, *, provider: str | None, schema: JsonValue
) -> RoutedGeneration:
    """Check the flags and resolve the selectors; asks the daemon for its routes only when a selector has a slash.

    Raises:
        Failure: a selector has no model, or names another route than the rest.
    """
    # The flags are checked before the daemon is asked anything.
    flags.to_wire(model=None, fallback_model=None, schema=schema)
    routes = route_ids(client) if "/" in f"{flags.model or ''}{flags.fallback_model or ''}" else frozenset()
    route, model = split_selector(flags.model, routes)
    fallback_route, fallback = split_selector(flags.fallback_model, routes)
    named = [found for found in (provider, route, fallback_route) if found is not None]
    if len(set(named)) > 1:
        raise Failure(f"the selectors and --provider name different routes: {', '.join(named)}")
    return RoutedGeneration(
        provider=named[0] if named else None,
        generation=flags.to_wire(model=model, fallback_model=fallback, schema=schema),
    )


def route_ids(client: DaemonClient) -> frozenset[str]:
    """The ids of the routes the daemon knows."""
    runtime = as_object(client.call("GET", "runtime"))
    return frozenset(str(route.get("route_id")) for route in as_rows(runtime.get("routes")))


def split_selector(selector: str | None, routes: frozenset[str]) -> tuple[str | None, str | None]:
    """Route and model of a selector; the part before the first slash counts only when it is a known route.

    Raises:
        Failure: the selector names a route and no model.
    """
    if selector is None:
        return None, None
    prefix, slash, model = selector.partition("/")
    if not slash or prefix not in routes:
        return None, selector
    if not model.strip():
        raise Failure(f"{selector!r} names a route and no model")
    return prefix, model
