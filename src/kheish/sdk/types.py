"""What the daemon answers with. Written by `python -m tools.sdk_types`; do not edit.

Fields that the daemon leaves out when empty are None or an empty tuple. `extra` holds fields this client does not know,
`raw` the object exactly as it was received. Strings that name a state may take values that are not known yet.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kheish.sdk.decoding import Wire
from kheish.sdk.jsonvalue import JsonObject, JsonValue

__all__ = [
    "Accepted",
    "AgentRecord",
    "ApprovalRequest",
    "ConfigView",
    "Conversation",
    "Explanation",
    "ExternalAction",
    "InterruptView",
    "Lease",
    "LeaseStatus",
    "ManagedAgentSnapshot",
    "MatrixView",
    "OutputRecord",
    "Pagination",
    "PendingApprovalView",
    "PendingQuestionView",
    "PruneReport",
    "Question",
    "QuestionOption",
    "ReplyHandle",
    "ReplyTargetsView",
    "RevisionView",
    "RouteAudience",
    "RoutePolicy",
    "RunEventEntry",
    "RunRequestSummary",
    "RunView",
    "RuntimeView",
    "SessionEvents",
    "SessionView",
    "SessionViewSummary",
    "SlotRevoked",
    "SlotStatus",
    "SubjectStatus",
    "ToolLimits",
    "UserQuestionRequest",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Accepted(Wire):
    """Whether there was something to remove."""

    accepted: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class AgentRecord(Wire):
    id: str
    parent: str | None = None
    conversation: Conversation
    status: str
    """One of idle, running, waiting_for_approval, waiting_for_user_input, failed, completed."""
    retention: str
    """One of retain, close_on_settle."""
    spawned_at_ms: int
    subtasks: tuple[JsonValue, ...]
    sidechain_session_id: str | None = None
    fork_context: JsonValue = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ApprovalRequest(Wire):
    id: str
    tool_call_id: str
    tool_name: str
    input: JsonValue = None
    scope: str
    reason: str | None = None
    in_doubt: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigView(Wire):
    revision: int
    updated_at_ms: int | None = None
    persisted: bool
    history_len: int
    history_limit: int
    store_path: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation(Wire):
    session_id: str
    thread_id: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation(Wire):
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
    audit_preview: JsonObject


@dataclass(frozen=True, kw_only=True, slots=True)
class ExternalAction(Wire):
    """One signed record: what the daemon was about to do outside of itself, or what came of it."""

    action_id: str
    timestamp_ms: int
    session_id: str | None = None
    agent_id: str | None = None
    run_id: str | None = None
    tool_call_id: str | None = None
    principal_id: str | None = None
    parent_principal_id: str | None = None
    grant_id: str | None = None
    phase: str
    """One of request, response."""
    kind: str
    target: str
    request_digest: str | None = None
    response_digest: str | None = None
    outcome: str | None = None
    prev_hash: str | None = None
    record_hash: str
    signature_alg: str
    key_id: str
    signature: str


@dataclass(frozen=True, kw_only=True, slots=True)
class InterruptView(Wire):
    interrupted: bool
    snapshot: ManagedAgentSnapshot


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease(Wire):
    """One credential lent for a while. Times are Unix milliseconds."""

    id: str
    grant_id: str
    subject_id: str
    subject_epoch: int
    audience: RouteAudience
    issued_at_ms: int
    expires_at_ms: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaseStatus(Wire):
    lease: Lease
    revoked: bool
    active: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class ManagedAgentSnapshot(Wire):
    agent: AgentRecord
    pending_approvals: tuple[ApprovalRequest, ...]
    pending_questions: tuple[UserQuestionRequest, ...] = ()
    last_assistant_message: str | None = None
    journal_len: int
    checkpoint_len: int
    last_error: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class MatrixView(Wire):
    modes: tuple[str, ...]
    tools: tuple[JsonObject, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputRecord(Wire):
    session_id: str
    run_id: str | None = None
    content: str
    parts: tuple[JsonObject, ...] = ()
    artifacts: tuple[JsonObject, ...] = ()
    source_kind: str | None = None
    plugin: str | None = None
    address: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Pagination(Wire):
    limit: int
    total_count: int
    has_more: bool
    next_cursor: str | None = None
    order: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PendingApprovalView(Wire):
    session_id: str
    agent_id: str
    run_id: str
    run_kind: str
    request: ApprovalRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class PendingQuestionView(Wire):
    session_id: str
    agent_id: str
    run_id: str | None = None
    run_kind: str | None = None
    request: UserQuestionRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class PruneReport(Wire):
    """What went, or would go."""

    dry_run: bool
    now_ms: int
    cutoff_ms: int
    limit: int
    matched_run_count: int
    candidate_run_ids: tuple[str, ...]
    candidate_debug_bytes: int
    pruned_debug_run_ids: tuple[str, ...]
    pruned_debug_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Question(Wire):
    """One question of a request; without options it is answered by text."""

    id: str
    header: str
    question: str
    options: tuple[QuestionOption, ...]
    multi_select: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionOption(Wire):
    """One choice of a question."""

    id: str
    label: str
    description: str | None = None
    preview: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplyHandle(Wire):
    plugin: str
    address: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplyTargetsView(Wire):
    reply_targets: tuple[ReplyHandle, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class RevisionView(Wire):
    revision: int
    at_ms: int
    setting: str
    source: str
    settings: JsonObject


@dataclass(frozen=True, kw_only=True, slots=True)
class RouteAudience(Wire):
    """What a lease is good for."""

    type: str
    route_id: str
    slot_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RoutePolicy(Wire):
    """What this session's runs use unless a run says otherwise."""

    provider: str | None = None
    generation: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunEventEntry(Wire):
    timestamp_ms: int
    run_id: str
    session_id: str
    agent_id: str
    event: JsonObject


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRequestSummary(Wire):
    source_plugin: str
    source_kind: str
    actor_id: str
    text_preview: str | None = None
    provider: str | None = None
    model: str | None = None
    approval_count: int | None = None
    question_count: int | None = None
    on_restart: str | None = None
    """One of resume, interrupt."""
    on_in_doubt: str | None = None
    """One of report, ask."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunView(Wire):
    run_id: str
    session_id: str
    agent_id: str
    kind: str
    status: str
    """One of queued, running, waiting_for_approval, waiting_for_user_question, completed, failed, interrupted,
    cancelled.
    """
    submitted_at_ms: int
    updated_at_ms: int
    started_at_ms: int | None = None
    finished_at_ms: int | None = None
    queued_position: int | None = None
    request: RunRequestSummary
    input_metadata: JsonValue = None
    pending_approval_ids: tuple[str, ...] = ()
    pending_approvals: tuple[ApprovalRequest, ...] = ()
    pending_question_ids: tuple[str, ...] = ()
    pending_questions: tuple[UserQuestionRequest, ...] = ()
    outputs: tuple[OutputRecord, ...] = ()
    usage: JsonObject = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RuntimeView(Wire):
    default_route: JsonObject = field(default_factory=dict)
    route_id: str | None = None
    provider: str | None = None
    model: str | None = None
    routes: tuple[JsonObject, ...]
    permission_mode: str
    restart_policy: str
    tools: tuple[str, ...]
    tool_limits: JsonObject
    config: ConfigView


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionEvents(Wire):
    session: JsonObject
    daemon_outputs: tuple[OutputRecord, ...]
    run_events: tuple[JsonObject, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionView(Wire):
    session_id: str
    agent_id: str
    route_policy: RoutePolicy | None = None
    capability_scope: JsonObject = field(default_factory=dict)
    effective_capability_scope: JsonObject = field(default_factory=dict)
    credential_scope: JsonObject = field(default_factory=dict)
    effective_credential_scope: JsonObject = field(default_factory=dict)
    reply_targets: tuple[ReplyHandle, ...] = ()
    snapshot: ManagedAgentSnapshot
    outputs: tuple[OutputRecord, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionViewSummary(Wire):
    session_id: str
    agent_id: str
    route_policy: RoutePolicy | None = None
    capability_scope: JsonObject = field(default_factory=dict)
    effective_capability_scope: JsonObject = field(default_factory=dict)
    credential_scope: JsonObject = field(default_factory=dict)
    effective_credential_scope: JsonObject = field(default_factory=dict)
    reply_targets: tuple[ReplyHandle, ...] = ()
    status: str
    """One of idle, running, waiting_for_approval, waiting_for_user_input, failed, completed."""
    pending_approvals: int
    pending_questions: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SlotRevoked(Wire):
    slot_id: str
    revoked_leases: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SlotStatus(Wire):
    """What is shown of a slot."""

    slot_id: str
    provider: str
    mode: str
    summary: str
    updated_at_ms: int
    details: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class SubjectStatus(Wire):
    """Who borrows, and what it has at the moment; a revoked subject borrows nothing any more."""

    subject_id: str
    current_epoch: int
    revoked: bool
    active_route_lease_ids: tuple[str, ...] = ()
    active_connector_lease_ids: tuple[str, ...] = ()
    active_mcp_lease_ids: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolLimits(Wire):
    max_input_bytes: int
    max_output_bytes: int
    max_result_envelope_bytes: int
    max_timeout_ms: int
    max_parallel_tools: int
    max_calls_per_turn: int
    max_cumulative_output_bytes: int
    max_cumulative_result_envelope_bytes: int
    max_sandbox: str


@dataclass(frozen=True, kw_only=True, slots=True)
class UserQuestionRequest(Wire):
    id: str
    tool_call_id: str
    questions: tuple[Question, ...]
    created_at_ms: int
    expires_at_ms: int | None = None
