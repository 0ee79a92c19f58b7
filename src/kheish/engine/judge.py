"""The AskPermission step: one decision per call, made once and recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kheish.core.jsonvalue import JsonObject
from kheish.engine.asking import approval
from kheish.engine.entries import CallsDecided, Decision, Ruling
from kheish.engine.state import CallState, RunState
from kheish.policy.protocol import Behavior, Permissions, Verdict
from kheish.tools.limits import ToolRuntimeLimits
from kheish.tools.protocol import ToolCall
from kheish.tools.runtime import ToolRuntime


class Judge:
    """Asks the tool runtime whether a call is well-formed, then the policy whether it may run."""

    def __init__(
        self, *, tools: ToolRuntime, permissions: Permissions, limits: Callable[[], ToolRuntimeLimits]
    ) -> None:
        self._tools = tools
        self._permissions = permissions
        self._limits = limits

    def decide(self, run: RunState, calls: Sequence[CallState]) -> CallsDecided:
        """Return the decisions for one wave. Changes nothing."""
        limits = self._limits()
        decisions: list[Decision] = []
        for index, call in enumerate(calls):
            asked = run.approvals_asked + sum(made.ruling is Ruling.ASK for made in decisions)
            decisions.append(self._one(run, call, index, asked, limits))
        return CallsDecided(decisions=tuple(decisions))

    def _one(self, run: RunState, state: CallState, index: int, asked: int, limits: ToolRuntimeLimits) -> Decision:
        part = state.call
        if part.invalid_input is not None:
            return _refused(part.call_id, {"error": f"invalid tool arguments: {part.invalid_input}", "tool": part.name})
        call = ToolCall(id=part.call_id, name=part.name, input=part.input)
        refusal = self._tools.admit(call, index_in_turn=index, limits=limits)
        if refusal is not None:
            output = refusal.output
            return _refused(part.call_id, output if isinstance(output, dict) else {"error": str(output)})
        verdict = self._permissions.decide(part.name, session_id=run.session_id)
        normalised = self._tools.normalised_input(call)
        descriptor = self._tools.descriptor(part.name)
        request = None
        if verdict.decision is Behavior.ASK:
            request = approval(call, verdict, asked)
        return Decision(
            call_id=part.call_id,
            ruling=Ruling(verdict.decision.value),
            replay=descriptor.replay.value,
            allows_parallel=descriptor.allows_parallel,
            asks_human=descriptor.asks_human,
            input=None if normalised == part.input else normalised,
            refusal=_denial(call, verdict) if verdict.decision is Behavior.DENY else None,
            approval=request,
            audit=_audit(call, verdict, request),
        )


def _refused(call_id: str, output: JsonObject) -> Decision:
    return Decision(call_id=call_id, ruling=Ruling.REFUSE, refusal=output)


def _denial(call: ToolCall, verdict: Verdict) -> JsonObject:
    rule = f"rule {verdict.matched_rule!r}" if verdict.matched_rule else "the permission rules"
    because = f": {verdict.reason}" if verdict.reason else ""
    return {
        "error": f"permission denied by {rule} in mode {verdict.effective_mode}{because}",
        "tool": call.name,
        "denied": True,
    }


def _audit(call: ToolCall, verdict: Verdict, request: JsonObject | None) -> JsonObject:
    facts: JsonObject = {
        "scope": verdict.scope,
        "tool_name": call.name,
        "tool_call_id": call.id,
        "decision": verdict.decision.value,
        "base_decision": verdict.base_decision.value,
        "effective_mode": verdict.effective_mode,
        "mode_effect": verdict.mode_effect,
        "matched_rule_pattern": verdict.matched_rule,
        "matched_rule_origin": verdict.matched_rule_origin,
        "reason": verdict.reason,
        "approval_request_id": None if request is None else request["id"],
    }
    return {key: value for key, value in facts.items() if value is not None}
