"""Wire types of sessions."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import ConfigDict, Discriminator, Field, JsonValue, Tag

from kheish.http.requests import Asked
from kheish.http.responses import Described
from kheish.sessions.generation import GenerationConfig


class AgentStatus(StrEnum):
    IDLE = "idle"
    RUNNING = "running"
    WAITING_FOR_APPROVAL = "waiting_for_approval"
    WAITING_FOR_USER_INPUT = "waiting_for_user_input"
    FAILED = "failed"
    COMPLETED = "completed"


# Requests


class CreateSession(Asked):
    """Open a session; an id that exists returns that session."""

    session_id: str | None = None
    thread_id: str | None = None
    persona_id: str | None = None
    capability_scope: dict[str, list[str]] | None = None
    credential_scope: dict[str, list[str]] | None = None


class EndSession(Asked):
    reason: str | None = None


class RoutePolicy(Asked):
    """What this session's runs use unless a run says otherwise."""

    provider: str | None = None
    """A route id."""
    generation: GenerationConfig | None = None


class SetRoutePolicy(Asked):
    route_policy: RoutePolicy | None
    """null clears it."""


class SetCredentialScope(Asked):
    credential_scope: dict[str, list[str]] | None
    """null lifts it."""


class RawTarget(Asked):
    type: Literal["raw"] = "raw"
    plugin: str = Field(min_length=1)
    address: str


class ExternalTarget(Asked):
    type: Literal["external"]
    connector: str = Field(min_length=1)
    route: JsonValue


class TelegramTarget(Asked):
    type: Literal["telegram"]
    connector: str = Field(min_length=1)
    chat_id: int = Field(ge=-(2**63), lt=2**63)
    message_thread_id: int | None = Field(default=None, ge=0, lt=2**63)
    reply_to_message_id: int | None = Field(default=None, ge=0, lt=2**63)


class SlackTarget(Asked):
    type: Literal["slack"]
    connector: str = Field(min_length=1)
    enterprise_id: str | None = None
    team_id: str | None = None
    channel_id: str = Field(min_length=1)
    thread_ts: str | None = None


class HttpTarget(Asked):
    type: Literal["http"]
    url: str = Field(min_length=1)
    headers: dict[str, str] | None = None


def _target_type(value: object) -> str:
    found = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return found if isinstance(found, str) else "raw"


ReplyTarget = Annotated[
    Annotated[RawTarget, Tag("raw")]
    | Annotated[ExternalTarget, Tag("external")]
    | Annotated[TelegramTarget, Tag("telegram")]
    | Annotated[SlackTarget, Tag("slack")]
    | Annotated[HttpTarget, Tag("http")],
    Discriminator(_target_type),
]


class SetReplyTargets(Asked):
    reply_targets: list[ReplyTarget]


# Views


class View(Described):
    """A response; more fields may follow."""

    model_config = ConfigDict(extra="allow")


class ReplyHandle(View):
    plugin: str
    address: str


class ReplyTargetsView(View):
    reply_targets: list[ReplyHandle] | None = None


class ApprovalRequest(View):
    id: str
    tool_call_id: str
    tool_name: str
    input: JsonValue
    scope: str
    reason: str | None = None
    in_doubt: bool | None = None
    """True: the daemon restarted while the call ran, it may have taken effect, and allowing it runs it again."""


class UserQuestionRequest(View):
    id: str
    tool_call_id: str
    questions: list[dict[str, JsonValue]]
    created_at_ms: int
    expires_at_ms: int | None = None


class OutputRecord(View):
    session_id: str
    run_id: str | None = None
    content: str
    parts: list[dict[str, JsonValue]] | None = None
    artifacts: list[dict[str, JsonValue]] | None = None
    source_kind: str | None = None
    plugin: str | None = None
    address: str | None


class Conversation(View):
    session_id: str
    thread_id: str | None


class AgentRecord(View):
    id: str
    parent: str | None
    conversation: Conversation
    status: AgentStatus
    retention: Literal["retain", "close_on_settle"]
    spawned_at_ms: int
    subtasks: list[JsonValue]
    sidechain_session_id: str | None
    fork_context: JsonValue | None


class ManagedAgentSnapshot(View):
    agent: AgentRecord
    pending_approvals: list[ApprovalRequest]
    pending_questions: list[UserQuestionRequest] | None = None
    last_assistant_message: str | None
    journal_len: int
    checkpoint_len: int
    last_error: str | None


class _Policies(View):
    session_id: str
    agent_id: str
    route_policy: RoutePolicy | None = None
    capability_scope: dict[str, list[str]] | None = None
    effective_capability_scope: dict[str, list[str]] | None = None
    credential_scope: dict[str, list[str]] | None = None
    effective_credential_scope: dict[str, list[str]] | None = None
    reply_targets: list[ReplyHandle] | None = None


class SessionView(_Policies):
    snapshot: ManagedAgentSnapshot
    outputs: list[OutputRecord]


class SessionViewSummary(_Policies):
    status: AgentStatus
    pending_approvals: int
    pending_questions: int


class InterruptView(View):
    interrupted: bool
    snapshot: ManagedAgentSnapshot


class Pagination(View):
    limit: int
    total_count: int
    has_more: bool
    next_cursor: str | None
    order: str


class SessionPage(View):
    items: list[SessionViewSummary]
    pagination: Pagination


class MaterialisedSession(View):
    session_id: str
    journal: list[dict[str, JsonValue]]
    checkpoints: list[JsonValue]
    audits: list[dict[str, JsonValue]]
    outputs: list[JsonValue]
    metadata: dict[str, JsonValue]


class SessionEvents(View):
    session: MaterialisedSession
    daemon_outputs: list[OutputRecord]
    run_events: list[dict[str, JsonValue]] | None = None
