"""One runtime validates, limits, times and executes every call."""

from __future__ import annotations

import asyncio
import hashlib
from typing import cast

import structlog

from kheish.core.jsonvalue import JsonObject, encode
from kheish.core.messages import ToolSpec
from kheish.core.redaction import Redactor
from kheish.core.values import changed
from kheish.tools.limits import ToolRuntimeLimits
from kheish.tools.protocol import (
    SANDBOX_ORDER,
    Prepared,
    QuestionAsked,
    QuestionTool,
    Replay,
    Sandbox,
    Tool,
    ToolCall,
    ToolContext,
    ToolDescriptor,
    ToolOutcome,
)
from kheish.tools.registry import ToolRegistry
from kheish.tools.validation import first_error, normalised

log = structlog.get_logger(__name__)


def failure(message: str, *, tool: str, **facts: object) -> ToolOutcome:
    """An error outcome; the model reads it and goes on."""
    return ToolOutcome(output=cast("JsonObject", {"error": message, "tool": tool, **facts}), is_error=True)


class BatchBudget:
    """What the calls of one assistant turn have used together."""

    def __init__(self, limits: ToolRuntimeLimits) -> None:
        self.limits = limits
        self._output_bytes = 0
        self._envelope_bytes = 0

    def charge(self, tool: str, outcome: ToolOutcome) -> ToolOutcome:
        """Return the outcome, or a quota error in its place when it is too large."""
        limits = self.limits
        output = len(encode(outcome.output))
        envelope = output + len(encode([outcome.is_error, list(outcome.context_updates)])) + len(tool)
        checks = (
            ("output_bytes", output, limits.max_output_bytes),
            ("result_envelope_bytes", envelope, limits.max_result_envelope_bytes),
            ("cumulative_output_bytes", self._output_bytes + output, limits.max_cumulative_output_bytes),
            (
                "cumulative_result_envelope_bytes",
                self._envelope_bytes + envelope,
                limits.max_cumulative_result_envelope_bytes,
            ),
        )
        for quota, actual, limit in checks:
            if actual > limit:
                return _over_quota(tool, quota, limit, actual, effects=outcome)
        self._output_bytes += output
        self._envelope_bytes += envelope
        return outcome


def _over_quota(tool: str, quota: str, limit: int, actual: int, *, effects: ToolOutcome | None = None) -> ToolOutcome:
    made = failure(
        f"the call exceeds the limit {quota}", tool=tool, quota=quota, limit_bytes=limit, actual_bytes=actual
    )
    return made if effects is None else changed(made, effects=effects.effects)


class ToolRuntime:
    """The engine's door to tools."""

    def __init__(self, registry: ToolRegistry, redactor: Redactor | None = None) -> None:
        self._registry = registry
        self._redactor = redactor or Redactor()

    @property
    def names(self) -> tuple[str, ...]:
        return self._registry.names

    def specs(self) -> tuple[ToolSpec, ...]:
        """The tools as the model sees them, sorted by name."""
        return self._registry.specs

    def descriptor(self, name: str) -> ToolDescriptor:
        """The descriptor; that of a call to an unknown tool says that nothing can be done."""
        tool = self._registry.get(name)
        return _UNKNOWN if tool is None else tool.descriptor

    def acts_outside(self, name: str) -> bool:
        """Whether a call may change something outside of the daemon's own store, or send something away.

        True also for a tool that is not there any more: nothing is known of it.
        """
        tool = self._registry.get(name)
        if tool is None:
            return True
        replay, sandbox = tool.descriptor.replay, tool.descriptor.sandbox
        return replay in (Replay.KEYED, Replay.NEVER) or sandbox is Sandbox.NETWORK_ENABLED

    def admit(self, call: ToolCall, *, index_in_turn: int, limits: ToolRuntimeLimits) -> ToolOutcome | None:
        """Check a call before anyone is asked for permission; return why it cannot run, or None."""
        if index_in_turn >= limits.max_calls_per_turn:
            return failure(
                "too many tool calls in one turn",
                tool=call.name,
                quota="max_calls_per_turn",
                limit_calls=limits.max_calls_per_turn,
            )
        tool = self._registry.get(call.name)
        if tool is None:
            return failure(f"tool not found: {call.name}", tool=call.name)
        if SANDBOX_ORDER.index(tool.descriptor.sandbox) > SANDBOX_ORDER.index(limits.max_sandbox):
            return failure(
                f"{call.name} needs the sandbox level {tool.descriptor.sandbox.value}",
                tool=call.name,
                quota="sandbox",
                max_sandbox=limits.max_sandbox.value,
            )
        size = len(encode(call.input))
        if size > limits.max_input_bytes:
            return _over_quota(call.name, "input_bytes", limits.max_input_bytes, size)
        error = first_error(tool.descriptor.schema, self.normalised_input(call))
        return None if error is None else failure(f"invalid input: {error}", tool=call.name)

    def normalised_input(self, call: ToolCall) -> JsonObject:
        return cast("JsonObject", normalised(call.input))

    def ask(self, call: ToolCall) -> QuestionAsked | ToolOutcome:
        """Turn a question call into questions, or say what is wrong with it."""
        tool = self._registry.get(call.name)
        if tool is None or not tool.descriptor.asks_human:
            return failure(f"tool not found: {call.name}", tool=call.name)
        return cast("QuestionTool", tool).ask(call)

    async def prepare(self, call: ToolCall, context: ToolContext) -> Prepared:
        """Get a call ready. Bad input becomes the outcome of the prepared call, never an exception."""
        tool = self._registry.get(call.name)
        if tool is None:
            return Known(failure(f"tool not found: {call.name}", tool=call.name))
        ready = changed(call, input=self.normalised_input(call))
        # A human's replacement input has not been through `admit`.
        if invalid := first_error(tool.descriptor.schema, ready.input):
            return Known(failure(f"invalid input: {invalid}", tool=call.name))
        try:
            return await cast("Tool", tool).prepare(ready, context)
        # Tool code may fail in ways of its own; the model reads that and the run goes on.
        except Exception as error:
            return Known(self._broken(call.name, error))

    async def execute(self, prepared: Prepared, descriptor: ToolDescriptor, budget: BatchBudget) -> ToolOutcome:
        """Run under the smaller of the tool's timeout and the limit. Cancelling stops the effect first."""
        timeout_ms = max(1, min(descriptor.timeout_ms, budget.limits.max_timeout_ms))
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                outcome = await prepared.run()
            return budget.charge(descriptor.name, self._redacted(outcome))
        except TimeoutError:
            return failure(f"{descriptor.name} timed out after {timeout_ms} ms", tool=descriptor.name)
        # The same boundary as in `prepare`.
        except Exception as error:
            return self._broken(descriptor.name, error)

    async def settle(self, call: ToolCall, facts: JsonObject, context: ToolContext) -> ToolOutcome | None:
        """Say what an in-doubt call did, or None when that cannot be known."""
        tool = self._registry.get(call.name)
        if tool is None:
            return None
        ready = changed(call, input=self.normalised_input(call))
        try:
            known = await cast("Tool", tool).settle(ready, facts, context)
            return None if known is None else self._redacted(known)
        # Looking may fail as well; then nothing is known.
        except Exception as error:
            log.warning("tool.settle_failed", tool=call.name, error=type(error).__name__)
            return None

    def _redacted(self, outcome: ToolOutcome) -> ToolOutcome:
        """Before anybody sees it: a command may print what it should not have found."""
        return changed(outcome, output=self._redactor.value(outcome.output))

    def _broken(self, name: str, error: Exception) -> ToolOutcome:
        log.error("tool.failed", tool=name, error=type(error).__name__, exc_info=error)
        return failure(f"{name} failed unexpectedly ({type(error).__name__})", tool=name)


class Known:
    """A prepared call whose outcome is known without running anything."""

    def __init__(self, outcome: ToolOutcome) -> None:
        self.facts: JsonObject = {}
        self._outcome = outcome

    async def run(self) -> ToolOutcome:
        return self._outcome

    async def abandon(self) -> None:
        return None


_UNKNOWN = ToolDescriptor(
    name="unknown",
    description="",
    schema={},
    timeout_ms=1000,
    sandbox=Sandbox.INHERITED,
    allows_parallel=True,
    replay=Replay.SAFE,
)


def audit_target(call: ToolCall) -> str:
    """What the audit names a call: raw commands and queries never appear in it."""
    for tool, field in (("bash", "command"), ("web_search", "query")):
        if call.name == tool:
            digest = hashlib.sha256(str(call.input.get(field, "")).encode()).hexdigest()[:16]
            return f"{tool}:{field}_sha256:{digest}"
    prefix = "mcp_tool" if call.name.startswith("mcp__") else "tool"
    return f"{prefix}:{call.name}"
