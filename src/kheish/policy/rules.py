"""Permission rules: which one matches a tool call, and what it says."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from kheish.core.values import value_class
from kheish.policy.modes import PermissionMode, apply_mode
from kheish.policy.protocol import Behavior, Verdict


class Scope(StrEnum):
    """Who owns a rule; in the order in which scopes are asked."""

    SESSION = "session"
    PROJECT = "project"
    USER = "user"


@value_class(frozen=True, kw_only=True, slots=True)
class Rule:
    """`pattern` is an exact tool name, `prefix*`, or `*`; case matters, and the call's input is not looked at."""

    pattern: str
    behavior: Behavior
    scope: Scope = Scope.SESSION
    reason: str | None = None
    origin: str = "static"

    def matches(self, tool_name: str) -> bool:
        if self.pattern.endswith("*"):
            return tool_name.startswith(self.pattern[:-1])
        return tool_name == self.pattern

    @property
    def specificity(self) -> tuple[bool, int]:
        """Exact names before prefixes, longer prefixes before shorter ones."""
        return (not self.pattern.endswith("*"), len(self.pattern))


def boot_rules() -> tuple[Rule, ...]:
    """The rules of a fresh daemon: reading is free, changing and running need a human."""
    asked = (
        ("bash", "runs a command on this machine"),
        ("write_file", "writes a file"),
        ("edit_file", "changes a file"),
        ("apply_patch", "changes files"),
        ("mcp__*", "calls an external tool server"),
        ("list_mcp_resources", "reads from an external tool server"),
        ("list_mcp_resource_templates", "reads from an external tool server"),
        ("read_mcp_resource", "reads from an external tool server"),
        ("exit_plan_mode", "ends planning and begins to act"),
    )
    asks = tuple(Rule(pattern=pattern, behavior=Behavior.ASK, reason=reason) for pattern, reason in asked)
    return (*asks, Rule(pattern="*", behavior=Behavior.ALLOW))


def matching_rule(rules: Sequence[Rule], tool_name: str) -> Rule | None:
    """The rule that decides: the first scope with any match, the most specific in it, the earliest among equals."""
    for scope in Scope:
        found = [rule for rule in rules if rule.scope is scope and rule.matches(tool_name)]
        if found:
            return max(found, key=lambda rule: rule.specificity)
    return None


class RulePermissions:
    """Rules under a daemon-wide mode."""

    def __init__(self, *, mode: PermissionMode, rules: Sequence[Rule] | None = None) -> None:
        self._mode = mode
        self._rules = boot_rules() if rules is None else tuple(rules)

    @property
    def mode(self) -> PermissionMode:
        return self._mode

    def set_mode(self, mode: PermissionMode) -> None:
        """Change the mode for later decisions; what was decided stays decided."""
        self._mode = mode

    def decide(self, tool_name: str, *, session_id: str | None, mode: PermissionMode | None = None) -> Verdict:
        """Decide one call; ``mode`` overrides the daemon's for a dry run."""
        effective = self._mode if mode is None else mode
        rule = matching_rule(self._rules, tool_name)
        base = Behavior.ALLOW if rule is None else rule.behavior
        decision, effect = apply_mode(effective, tool_name, base)
        scope = Scope.SESSION if rule is None else rule.scope
        if effect is not None and effective is not PermissionMode.DONT_ASK:
            scope = Scope.SESSION
        return Verdict(
            decision=decision,
            base_decision=base,
            effective_mode=effective.value,
            scope=scope.value,
            mode_effect=effect,
            matched_rule=None if rule is None else rule.pattern,
            matched_rule_origin=None if rule is None else rule.origin,
            reason=None if rule is None else rule.reason,
        )
