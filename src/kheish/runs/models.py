"""Wire types of runs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AliasChoices, Field, JsonValue

from kheish.engine.entries import OnInDoubt, OnRestart, RunStatus
from kheish.http.requests import Asked
from kheish.sessions.generation import GenerationConfig
from kheish.sessions.models import ApprovalRequest, OutputRecord, Pagination, ReplyTarget, UserQuestionRequest, View

# Requests


class TextItem(Asked):
    type: Literal["text"]
    text: str


class AssetReference(Asked):
    type: Literal["asset_reference"]
    asset_id: str


class InlineAsset(Asked):
    type: Literal["inline_asset"]
    file_name: str
    media_type: str | None = None
    content_base64: str


class BoardReference(Asked):
    type: Literal["board_reference"]
    board_id: str
    revision_id: str | None = None


Attachment = Annotated[AssetReference | InlineAsset, Field(discriminator="type")]
InputItem = Annotated[TextItem | AssetReference | InlineAsset | BoardReference, Field(discriminator="type")]


class CompletionRequirement(Asked):
    """The run completes only after it created or modified a workspace file: this one, or any without a path."""

    type: Literal["workspace_file"]
    path: str | None = None


class SubmitInput(Asked):
    """What a session shall work on. `input_items` excludes `content` and `attachments`."""

    content: str = ""
    attachments: list[Attachment] = Field(default_factory=list)
    input_items: list[InputItem] = Field(default_factory=list)
    provider: str | None = Field(default=None, validation_alias=AliasChoices("provider", "route_id"))
    """A route id."""
    generation: GenerationConfig | None = None
    completion_requirements: list[CompletionRequirement] | None = None
    metadata: JsonValue = None
    source_plugin: str | None = None
    source_kind: str | None = None
    actor_id: str | None = None
    binding_keys: list[str] = Field(default_factory=list)
    reply_targets: list[ReplyTarget] = Field(default_factory=list)
    reply_plugin: str | None = None
    reply_address: str | None = None
    on_restart: OnRestart | None = None
    """What a restart of the daemon does with the run while it is running; absent: the daemon's policy."""
    on_in_doubt: OnInDoubt | None = None
    """A call that may have taken effect when the daemon died: report it to the model (default), or ask a human."""


class SubmitRun(SubmitInput):
    idempotency_key: str | None = None


# Views


class RunRequestSummary(View):
    source_plugin: str
    source_kind: str
    actor_id: str
    text_preview: str | None = None
    provider: str | None = None
    model: str | None = None
    approval_count: int | None = None
    question_count: int | None = None
    on_restart: OnRestart | None = None
    on_in_doubt: OnInDoubt | None = None


class RunView(View):
    run_id: str
    session_id: str
    agent_id: str
    kind: str
    status: RunStatus
    submitted_at_ms: int
    updated_at_ms: int
    started_at_ms: int | None = None
    finished_at_ms: int | None = None
    queued_position: int | None = None
    request: RunRequestSummary
    input_metadata: JsonValue | None = None
    pending_approval_ids: list[str] | None = None
    pending_approvals: list[ApprovalRequest] | None = None
    pending_question_ids: list[str] | None = None
    pending_questions: list[UserQuestionRequest] | None = None
    outputs: list[OutputRecord] | None = None
    usage: dict[str, float] | None = None
    error: str | None = None


class RunPage(View):
    items: list[RunView]
    pagination: Pagination


class RunEventEntry(View):
    timestamp_ms: int
    run_id: str
    session_id: str
    agent_id: str
    event: dict[str, JsonValue]


class PruneRuns(Asked):
    """Which debug evidence may go."""

    older_than_ms: int
    """Since the run ended, in milliseconds."""
    session_id: str | None = None
    limit: int | None = None
    dry_run: bool = False


class PruneReport(View):
    """What went, or would go."""

    dry_run: bool
    now_ms: int
    cutoff_ms: int
    limit: int
    matched_run_count: int
    candidate_run_ids: list[str]
    candidate_debug_bytes: int
    pruned_debug_run_ids: list[str]
    pruned_debug_bytes: int
