"""Dry runs of permission decisions: they ask no human, write no audit and change nothing."""

from __future__ import annotations

from kheish.core.jsonvalue import JsonObject, without_empty
from kheish.policy.modes import PermissionMode
from kheish.policy.protocol import Behavior, Verdict
from kheish.policy.rules import RulePermissions
from kheish.runtime.models import CheckPermission
from kheish.runtime.service import permission_mode
from kheish.sessions.service import Sessions

_DRY_RUN = "dry-run"


class PermissionChecks:
    """Explains decisions."""

    def __init__(self, *, permissions: RulePermissions, sessions: Sessions, tool_names: tuple[str, ...]) -> None:
        self._permissions = permissions
        self._sessions = sessions
        self._tool_names = tool_names

    async def explain(self, request: CheckPermission) -> JsonObject:
        """What would be decided about this call, and why.

        Raises:
            SessionNotFound: a session is named that does not exist.
            BadRequest: there is no such mode.
        """
        mode = None if request.mode_override is None else permission_mode(request.mode_override)
        if request.session_id is not None:
            await self._sessions.record(request.session_id)
        verdict = self._permissions.decide(request.tool_name, session_id=request.session_id, mode=mode)
        call_id = request.tool_call_id or _DRY_RUN
        facts: JsonObject = {
            "mode_effect": verdict.mode_effect,
            "reason": verdict.reason,
            "matched_rule": verdict.matched_rule,
            "matched_rule_origin": verdict.matched_rule_origin,
        }
        return {
            "tool_call_id": call_id,
            "tool_name": request.tool_name,
            "effective_mode": verdict.effective_mode,
            "decision": verdict.decision.value,
            "base_decision": verdict.base_decision.value,
            "mode_applied": verdict.mode_effect is not None,
            "approval_required": verdict.decision is Behavior.ASK,
            "hooks_evaluated": False,
            "hook_policy": "not_executed_in_dry_run",
            "scope": verdict.scope,
            **without_empty(facts),
            "audit_preview": _audit(request.tool_name, call_id, verdict),
        }

    async def matrix(self, session_id: str | None) -> JsonObject:
        """Every registered tool in every mode.

        Raises:
            SessionNotFound: a session is named that does not exist.
        """
        if session_id is not None:
            await self._sessions.record(session_id)
        return {
            "modes": [mode.value for mode in PermissionMode],
            "tools": [self._row(name, session_id) for name in self._tool_names],
        }

    def _row(self, name: str, session_id: str | None) -> JsonObject:
        decisions: JsonObject = {}
        for mode in PermissionMode:
            verdict = self._permissions.decide(name, session_id=session_id, mode=mode)
            decisions[mode.value] = verdict.decision.value
        return {"tool_name": name, "decisions": decisions}


def _audit(tool_name: str, call_id: str, verdict: Verdict) -> JsonObject:
    facts: JsonObject = {
        "scope": verdict.scope,
        "tool_name": tool_name,
        "tool_call_id": call_id,
        "decision": verdict.decision.value,
        "base_decision": verdict.base_decision.value,
        "effective_mode": verdict.effective_mode,
        "mode_effect": verdict.mode_effect,
        "matched_rule_pattern": verdict.matched_rule,
        "matched_rule_origin": verdict.matched_rule_origin,
        "reason": verdict.reason,
        "approval_request_id": _DRY_RUN if verdict.decision is Behavior.ASK else None,
    }
    return without_empty(facts)
