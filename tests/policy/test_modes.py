"""What each mode does to each kind of rule, with the name of the effect and the scope that an audit shows."""

from __future__ import annotations

import pytest

from kheish.policy.modes import PermissionMode
from kheish.policy.protocol import Behavior
from kheish.policy.rules import Rule, RulePermissions, Scope, boot_rules

ALLOW, DENY, ASK = Behavior.ALLOW, Behavior.DENY, Behavior.ASK
DEFAULT, EDITS, BYPASS, PLAN, DONT_ASK = PermissionMode

EDITED = "accept_edits_auto_allowed_edit_approval"
BYPASSED = "bypass_permissions_auto_allowed_approval"
PLANNED = "plan_mode_allowed_read_only_or_coordination_tool"
CLOSED = "plan_mode_denied_non_whitelisted_tool"
UNASKED = "dont_ask_denied_approval"

OPEN_WHILE_PLANNING = [
    "read_file",
    "list_files",
    "glob_search",
    "grep_search",
    "web_fetch",
    "web_search",
    "list_mcp_resources",
    "list_mcp_resource_templates",
    "read_mcp_resource",
    "list_skills",
    "read_channel_thread",
    "ask_operator",
    "ask_user_question",
    "request_parent_clarification",
    "spawn_agent",
    "list_agents",
    "list_agent_summaries",
    "message_agent",
    "wait_agent",
    "get_agent",
    "enter_plan_mode",
    "exit_plan_mode",
    "task_get",
    "task_list",
    "task_output",
    "schedule_get",
    "schedule_list",
    "get_goal",
    "project_list_tasks",
]
ASKED_AT_FIRST = [
    "bash",
    "write_file",
    "edit_file",
    "apply_patch",
    "mcp__*",
    "list_mcp_resources",
    "list_mcp_resource_templates",
    "read_mcp_resource",
    "exit_plan_mode",
]


@pytest.mark.parametrize(
    ("mode", "tool", "rule", "decision", "effect", "scope"),
    [
        (DEFAULT, "bash", ASK, ASK, None, "project"),
        (DEFAULT, "bash", ALLOW, ALLOW, None, "project"),
        (EDITS, "write_file", ASK, ALLOW, EDITED, "session"),
        (EDITS, "edit_file", ASK, ALLOW, EDITED, "session"),
        (EDITS, "apply_patch", ASK, ALLOW, EDITED, "session"),
        (EDITS, "write_file", ALLOW, ALLOW, None, "project"),
        (EDITS, "bash", ASK, ASK, None, "project"),
        (BYPASS, "bash", ASK, ALLOW, BYPASSED, "session"),
        (BYPASS, "bash", ALLOW, ALLOW, None, "project"),
        (PLAN, "read_file", ALLOW, ALLOW, PLANNED, "session"),
        (PLAN, "read_file", ASK, ASK, None, "project"),
        (PLAN, "bash", ASK, DENY, CLOSED, "session"),
        (PLAN, "bash", ALLOW, DENY, CLOSED, "session"),
        (DONT_ASK, "bash", ASK, DENY, UNASKED, "project"),
        (DONT_ASK, "bash", ALLOW, ALLOW, None, "project"),
    ],
)
def test_a_mode_names_its_effect_and_takes_the_scope_unless_it_only_refuses_to_ask(
    mode: PermissionMode, tool: str, rule: Behavior, decision: Behavior, effect: str | None, scope: str
) -> None:
    permissions = RulePermissions(mode=mode, rules=(Rule(pattern=tool, behavior=rule, scope=Scope.PROJECT),))

    verdict = permissions.decide(tool, session_id=None)

    assert (verdict.decision, verdict.mode_effect, verdict.scope) == (decision, effect, scope)
    assert (verdict.base_decision, verdict.effective_mode) == (rule, mode.value)


@pytest.mark.parametrize("tool", OPEN_WHILE_PLANNING)
def test_what_reads_or_coordinates_stays_open_while_planning(tool: str) -> None:
    planning = RulePermissions(mode=PLAN)
    asked = matches_an_asking_pattern(tool)

    assert planning.decide(tool, session_id=None).decision is (ASK if asked else ALLOW)


@pytest.mark.parametrize("tool", ["emit_output", "create_goal", "task_create", "schedule_create", "Read_file", "read_"])
def test_everything_else_is_closed_while_planning(tool: str) -> None:
    assert RulePermissions(mode=PLAN).decide(tool, session_id=None).decision is DENY


def matches_an_asking_pattern(tool: str) -> bool:
    return tool in ASKED_AT_FIRST or tool.startswith("mcp__")


def test_the_boot_rules_ask_in_the_published_order_and_say_why() -> None:
    *asking, rest = boot_rules()

    assert [rule.pattern for rule in asking] == ASKED_AT_FIRST
    assert all(rule.behavior is ASK and rule.reason and rule.origin == "static" for rule in asking)
    assert (rest.pattern, rest.behavior) == ("*", ALLOW)


def test_a_rule_that_came_earlier_from_a_hook_beats_a_static_one_with_its_pattern() -> None:
    learned = Rule(pattern="bash", behavior=ALLOW, origin="hook_update")
    permissions = RulePermissions(mode=DEFAULT, rules=(learned, *boot_rules()))

    verdict = permissions.decide("bash", session_id=None)

    assert (verdict.decision, verdict.matched_rule_origin) == (ALLOW, "hook_update")


def test_the_mode_of_a_later_decision_is_the_one_set_last() -> None:
    permissions = RulePermissions(mode=DEFAULT)
    before = permissions.decide("bash", session_id=None)

    permissions.set_mode(BYPASS)

    assert (before.decision, permissions.decide("bash", session_id=None).decision) == (ASK, ALLOW)
