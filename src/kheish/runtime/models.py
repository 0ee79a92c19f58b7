"""Wire types of the runtime configuration."""

from __future__ import annotations

from pydantic import Field, JsonValue

from kheish.http.requests import Asked
from kheish.sessions.models import View

_MAX_REVISION = 2**53


class Change(Asked):
    """A change of a daemon-wide setting."""

    expected_revision: int | None = Field(default=None, ge=0, le=_MAX_REVISION)
    """Refuse the change unless this is the current revision."""


class SetModel(Change):
    provider: str | None = None
    """A route id; absent: the current default route."""
    model: str


class SetRoute(Change):
    route_id: str = Field(max_length=200)
    route: dict[str, JsonValue] | None
    """The keys of a `[routes.<route_id>]` table, without `api_key`; null removes a route that was added."""
    make_default: bool = False


class SetPermissionMode(Change):
    mode: str


class SetToolLimits(Change):
    limits: dict[str, JsonValue]
    """The full limits object."""


class CheckPermission(Asked):
    """What would happen to this call?"""

    tool_name: str
    input: dict[str, JsonValue] = Field(default_factory=dict)
    tool_call_id: str | None = None
    session_id: str | None = None
    mode_override: str | None = None


class PermissionMatrix(Asked):
    session_id: str | None = None


class ConfigView(View):
    revision: int
    updated_at_ms: int | None
    persisted: bool
    history_len: int
    history_limit: int
    store_path: str


class RuntimeView(View):
    default_route: dict[str, JsonValue] | None
    route_id: str | None
    provider: str | None
    model: str | None
    routes: list[dict[str, JsonValue]]
    permission_mode: str
    restart_policy: str
    """`resume` or `interrupt`: what a restart does with a running run that says nothing of its own."""
    tools: list[str]
    tool_limits: dict[str, JsonValue]
    config: ConfigView


class RevisionView(View):
    revision: int
    at_ms: int
    setting: str
    source: str
    settings: dict[str, JsonValue]


class ToolLimits(View):
    max_input_bytes: int
    max_output_bytes: int
    max_result_envelope_bytes: int
    max_timeout_ms: int
    max_parallel_tools: int
    max_calls_per_turn: int
    max_cumulative_output_bytes: int
    max_cumulative_result_envelope_bytes: int
    max_sandbox: str


class Explanation(View):
    tool_call_id: str
    tool_name: str
    effective_mode: str
    decision: str
    base_decision: str
    mode_applied: bool
    mode_effect: str | None = None
    approval_required: bool
    hooks_evaluated: bool
    hook_policy: str
    scope: str
    reason: str | None = None
    matched_rule: str | None = None
    matched_rule_origin: str | None = None
    audit_preview: dict[str, JsonValue]


class MatrixView(View):
    modes: list[str]
    tools: list[dict[str, JsonValue]]
