"""Permission modes: how the daemon's or a session's stance changes what the rules say."""

from __future__ import annotations

from enum import StrEnum

from kheish.policy.protocol import Behavior


class PermissionMode(StrEnum):
    DEFAULT = "default"
    ACCEPT_EDITS = "acceptEdits"
    BYPASS_PERMISSIONS = "bypassPermissions"
    PLAN = "plan"
    DONT_ASK = "dontAsk"


_EDITS = frozenset({"write_file", "edit_file", "apply_patch"})
_PLAN_TOOLS = frozenset(
    {
        "ask_operator",
        "ask_user_question",
        "enter_plan_mode",
        "exit_plan_mode",
        "get_agent",
        "get_goal",
        "glob_search",
        "grep_search",
        "list_agent_summaries",
        "list_agents",
        "list_files",
        "list_mcp_resource_templates",
        "list_mcp_resources",
        "list_skills",
        "message_agent",
        "project_list_tasks",
        "read_channel_thread",
        "read_file",
        "read_mcp_resource",
        "request_parent_clarification",
        "schedule_get",
        "schedule_list",
        "spawn_agent",
        "task_get",
        "task_list",
        "task_output",
        "wait_agent",
        "web_fetch",
        "web_search",
    }
)
"""What reads or coordinates; everything else is closed while a plan is made."""


def apply_mode(mode: PermissionMode, tool_name: str, base: Behavior) -> tuple[Behavior, str | None]:
    """Return the decision in this mode and the name of the effect it had, if any. An explicit deny survives."""
    if base is Behavior.DENY:
        return base, None
    match mode:
        case PermissionMode.ACCEPT_EDITS if base is Behavior.ASK and tool_name in _EDITS:
            return Behavior.ALLOW, "accept_edits_auto_allowed_edit_approval"
        case PermissionMode.BYPASS_PERMISSIONS if base is Behavior.ASK:
            return Behavior.ALLOW, "bypass_permissions_auto_allowed_approval"
        case PermissionMode.DONT_ASK if base is Behavior.ASK:
            return Behavior.DENY, "dont_ask_denied_approval"
        case PermissionMode.PLAN if tool_name not in _PLAN_TOOLS:
            return Behavior.DENY, "plan_mode_denied_non_whitelisted_tool"
        case PermissionMode.PLAN if base is Behavior.ALLOW:
            return base, "plan_mode_allowed_read_only_or_coordination_tool"
        case _:
            return base, None
