from __future__ import annotations

import pytest

from kheish.policy.modes import PermissionMode
from kheish.policy.protocol import Behavior, Verdict
from kheish.policy.rules import Rule, RulePermissions, Scope, boot_rules, matching_rule

ALLOW, DENY, ASK = Behavior.ALLOW, Behavior.DENY, Behavior.ASK
TOOLS = (
    "bash",
    "write_file",
    "mcp__x__y",
    "read_mcp_resource",
    "read_file",
    "exit_plan_mode",
    "todo_write",
    "emit_output",
)
TABLE = {
    PermissionMode.DEFAULT: (ASK, ASK, ASK, ASK, ALLOW, ASK, ALLOW, ALLOW),
    PermissionMode.ACCEPT_EDITS: (ASK, ALLOW, ASK, ASK, ALLOW, ASK, ALLOW, ALLOW),
    PermissionMode.BYPASS_PERMISSIONS: (ALLOW,) * 8,
    PermissionMode.PLAN: (DENY, DENY, DENY, ASK, ALLOW, ASK, DENY, DENY),
    PermissionMode.DONT_ASK: (DENY, DENY, DENY, DENY, ALLOW, DENY, ALLOW, ALLOW),
}


@pytest.mark.parametrize("mode", PermissionMode)
def test_every_mode_decides_every_tool_as_the_table_says(mode: PermissionMode) -> None:
    permissions = RulePermissions(mode=mode)

    assert tuple(permissions.decide(tool, session_id=None).decision for tool in TOOLS) == TABLE[mode]


def test_a_fresh_daemon_asks_for_bash_and_allows_reading() -> None:
    permissions = RulePermissions(mode=PermissionMode.DEFAULT)

    bash = permissions.decide("bash", session_id=None)
    read = permissions.decide("read_file", session_id=None)

    assert (bash.decision, bash.base_decision, bash.matched_rule, bash.matched_rule_origin) == (
        ASK,
        ASK,
        "bash",
        "static",
    )
    assert (read.decision, read.matched_rule) == (ALLOW, "*")


def test_an_override_decides_a_dry_run_and_leaves_the_mode() -> None:
    permissions = RulePermissions(mode=PermissionMode.DEFAULT)

    verdict = permissions.decide("bash", session_id=None, mode=PermissionMode.PLAN)

    assert verdict == Verdict(
        decision=DENY,
        base_decision=ASK,
        effective_mode="plan",
        scope="session",
        mode_effect="plan_mode_denied_non_whitelisted_tool",
        matched_rule="bash",
        matched_rule_origin="static",
        reason="runs a command on this machine",
    )
    assert permissions.mode is PermissionMode.DEFAULT


def test_the_first_scope_with_a_match_wins_over_a_more_specific_rule_below_it() -> None:
    rules = (
        Rule(pattern="bash", behavior=DENY, scope=Scope.USER),
        Rule(pattern="ba*", behavior=ASK, scope=Scope.PROJECT),
        Rule(pattern="*", behavior=ALLOW, scope=Scope.SESSION),
    )

    assert matching_rule(rules, "bash") is rules[2]
    assert matching_rule(rules[:2], "bash") is rules[1]


def test_exact_beats_long_prefix_beats_short_prefix_and_the_earliest_wins_a_tie() -> None:
    rules = (
        Rule(pattern="*", behavior=ALLOW),
        Rule(pattern="mcp__*", behavior=ASK),
        Rule(pattern="mcp__a__*", behavior=DENY),
        Rule(pattern="mcp__a__b", behavior=ALLOW),
        Rule(pattern="mcp__a__b", behavior=DENY),
    )

    assert matching_rule(rules, "mcp__a__b") is rules[3]
    assert matching_rule(rules, "mcp__a__c") is rules[2]
    assert matching_rule(rules, "mcp__z") is rules[1]


def test_names_are_case_sensitive_and_no_match_allows() -> None:
    permissions = RulePermissions(
        mode=PermissionMode.DEFAULT, rules=(Rule(pattern="bash", behavior=DENY, scope=Scope.USER),)
    )

    verdict = permissions.decide("Bash", session_id=None)

    assert (verdict.decision, verdict.scope, verdict.matched_rule) == (ALLOW, "session", None)


@pytest.mark.parametrize("mode", PermissionMode)
def test_an_explicit_deny_survives_every_mode_without_an_effect(mode: PermissionMode) -> None:
    permissions = RulePermissions(mode=mode, rules=(Rule(pattern="*", behavior=DENY, scope=Scope.PROJECT),))

    verdict = permissions.decide("read_file", session_id=None)

    assert (verdict.decision, verdict.mode_effect, verdict.scope) == (DENY, None, "project")


def test_dont_ask_keeps_the_scope_of_the_rule() -> None:
    rules = (Rule(pattern="bash", behavior=ASK, scope=Scope.PROJECT),)
    permissions = RulePermissions(mode=PermissionMode.DONT_ASK, rules=rules)

    assert permissions.decide("bash", session_id=None).scope == "project"


def test_the_boot_rules_end_with_the_one_that_allows_everything_else() -> None:
    assert boot_rules()[-1] == Rule(pattern="*", behavior=ALLOW)
    assert {rule.scope for rule in boot_rules()} == {Scope.SESSION}
