"""Limits of the tool runtime: sizes in bytes of compact JSON, times in milliseconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields

from kheish.core.jsonvalue import JsonObject
from kheish.core.problems import Problem
from kheish.core.values import value_class
from kheish.tools.protocol import Sandbox


class InvalidToolRuntimeLimits(Problem):
    """A tool limit is missing, unknown or out of range."""

    domain, code, status = "runtime", "invalid_tool_runtime_limits", 400


@value_class(frozen=True, kw_only=True, slots=True)
class ToolRuntimeLimits:
    """What one call, one batch and one assistant turn may use. Every number is positive."""

    max_input_bytes: int = 16_777_216
    max_output_bytes: int = 16_777_216
    max_result_envelope_bytes: int = 25_165_824
    max_timeout_ms: int = 180_000
    max_parallel_tools: int = 16
    max_calls_per_turn: int = 256
    max_cumulative_output_bytes: int = 67_108_864
    max_cumulative_result_envelope_bytes: int = 100_663_296
    max_sandbox: Sandbox = Sandbox.NETWORK_ENABLED

    def to_json(self) -> JsonObject:
        return {**asdict(self), "max_sandbox": self.max_sandbox.value}

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> ToolRuntimeLimits:
        """Build from a complete limits object.

        Raises:
            InvalidToolRuntimeLimits: a field is missing, unknown, not a number, or not positive; the text names it.
        """
        names = {field.name for field in fields(cls)}
        if unknown := sorted(set(value) - names):
            raise InvalidToolRuntimeLimits(f"limits.{unknown[0]} is not a known tool limit.")
        if missing := sorted(names - set(value)):
            raise InvalidToolRuntimeLimits(f"limits.{missing[0]} is required: send the full limits object.")
        numbers = {name: _positive(name, value[name]) for name in names if name != "max_sandbox"}
        return cls(**numbers, max_sandbox=_sandbox(value["max_sandbox"]))


def _positive(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise InvalidToolRuntimeLimits(f"limits.{name} must be a whole number greater than 0.")
    return value


def _sandbox(value: object) -> Sandbox:
    try:
        return Sandbox(str(value))
    except ValueError:
        allowed = ", ".join(Sandbox)
        raise InvalidToolRuntimeLimits(f"limits.max_sandbox must be one of {allowed}.") from None
