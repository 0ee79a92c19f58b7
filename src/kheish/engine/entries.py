"""Every kind of journal entry, in one place. What happened to a session is a list of these and nothing else.

Wire projections: `InputAccepted` → run events accepted/queued, `RunStarted` → started, `CallsDecided` →
waiting_for_approval when a call asks, `InDoubtAsked` → waiting_for_approval, `ApprovalsResolved` → approval_resolved,
`QuestionRequested` → waiting_for_user_question, `QuestionResolved` → user_question_resolved, `ToolIntended` →
tool_call_started, `ToolFinished` → tool_call_finished, `Resumed` → resumed, `RunEnded` → output and the terminal
event, `Microcompacted`, `Snipped`, `Compacted` → compaction_boundary, the last one a checkpoint too.
"""

from __future__ import annotations

from enum import StrEnum

from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.core.messages import FinishReason, Generation, Part, ToolChoice, Usage
from kheish.core.values import value_class


class RunStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    WAITING_FOR_APPROVAL = "waiting_for_approval"
    WAITING_FOR_USER_QUESTION = "waiting_for_user_question"
    COMPLETED = "completed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        return self in _TERMINAL

    @property
    def waiting(self) -> bool:
        return self in (RunStatus.WAITING_FOR_APPROVAL, RunStatus.WAITING_FOR_USER_QUESTION)


class OnRestart(StrEnum):
    """What becomes of a run that was running when the daemon stopped."""

    RESUME = "resume"
    INTERRUPT = "interrupt"


class OnInDoubt(StrEnum):
    """What becomes of a call that may have taken effect and is not run again by itself."""

    REPORT = "report"
    """The model is told."""
    ASK = "ask"
    """A human is asked whether to run it again."""


_TERMINAL = frozenset({RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.INTERRUPTED, RunStatus.CANCELLED})


@value_class(frozen=True, kw_only=True, slots=True)
class RouteRef:
    """The route pinned on a run: chosen once, never recomputed."""

    route_id: str
    driver: str
    model: str
    context_window_tokens: int | None = None
    """What the route says of its models; None: the model's name decides."""


@value_class(frozen=True, kw_only=True, slots=True)
class InputAccepted:
    """A run exists from here on. Holds everything needed to execute it."""

    agent_id: str
    kind: str
    envelope: JsonObject
    """The InputEnvelope of the wire contract."""
    text: str
    """What the model reads as the user's message."""
    route: RouteRef
    generation: Generation
    summary: JsonObject
    """source_plugin, source_kind, actor_id, text_preview of RunRequestSummary."""
    requirements: tuple[JsonObject, ...] = ()
    """Completion requirements: `{"type": "workspace_file", "path"?}`."""
    max_turns: int = 500
    """0 = no ceiling."""
    reply_targets: tuple[JsonObject, ...] = ()
    on_restart: OnRestart | None = None
    """None: the daemon's policy at the restart."""
    on_in_doubt: OnInDoubt = OnInDoubt.REPORT


@value_class(frozen=True, kw_only=True, slots=True)
class RunStarted:
    """The run took the session's active slot."""


@value_class(frozen=True, kw_only=True, slots=True)
class CredentialUse:
    """What a model call was made with: who borrowed which credential, and what was sent."""

    subject_id: str
    grant_id: str
    lease_id: str
    slot_id: str
    issued_at_ms: int
    expires_at_ms: int
    started_at_ms: int
    subject_epoch: int = 0
    request_digest: str | None = None
    """SHA-256 of the bytes of the request, as hex; None: none was sent, or the driver needs no network."""


@value_class(frozen=True, kw_only=True, slots=True)
class ModelReplied:
    """One whole assistant message. Tool calls in `parts` carry the daemon's call ids."""

    turn: int
    message_id: str
    parts: tuple[Part, ...]
    finish_reason: FinishReason
    usage: Usage
    response_id: str | None = None
    access: CredentialUse | None = None


@value_class(frozen=True, kw_only=True, slots=True)
class ModelFailed:
    """One attempt of a model call failed; `retry_at_ms` is set when another follows."""

    turn: int
    attempt: int
    kind: str
    message: str
    retry_at_ms: int | None = None
    max_output_tokens: int | None = None
    usage: Usage = Usage()
    """Of a reply that came and cannot be used."""
    access: CredentialUse | None = None
    """None: it failed before a credential was borrowed."""


class Ruling(StrEnum):
    ALLOW = "allow"
    DENY = "deny"
    ASK = "ask"
    REFUSE = "refuse"
    """The runtime refused the call before permissions were asked (unknown tool, invalid input, quota)."""


@value_class(frozen=True, kw_only=True, slots=True)
class Decision:
    """What was decided about one call, once."""

    call_id: str
    ruling: Ruling
    replay: str = "safe"
    allows_parallel: bool = False
    asks_human: bool = False
    input: JsonObject | None = None
    """The normalised input when it differs from the model's."""
    refusal: JsonObject | None = None
    """Error output for DENY and REFUSE."""
    approval: JsonObject | None = None
    """The ApprovalRequest for ASK."""
    audit: JsonObject | None = None


@value_class(frozen=True, kw_only=True, slots=True)
class CallsDecided:
    """The permission decisions for all calls of one message (one wave)."""

    decisions: tuple[Decision, ...]


@value_class(frozen=True, kw_only=True, slots=True)
class InDoubtAsked:
    """A human is asked whether calls that may have taken effect shall run again; their intents are settled by this."""

    requests: tuple[JsonObject, ...]
    """ApprovalRequests with `in_doubt`: true."""


@value_class(frozen=True, kw_only=True, slots=True)
class ApprovalsResolved:
    """Resolutions as accepted: request_id, behavior, updated_input?, justification?, reason?"""

    resolutions: tuple[JsonObject, ...]


@value_class(frozen=True, kw_only=True, slots=True)
class QuestionRequested:
    """A UserQuestionRequest is shown to a human."""

    call_id: str
    request: JsonObject


@value_class(frozen=True, kw_only=True, slots=True)
class QuestionResolved:
    """The UserQuestionResolution; the tool result follows as `ToolFinished`."""

    call_id: str
    resolution: JsonObject


@value_class(frozen=True, kw_only=True, slots=True)
class ToolIntended:
    """A call is about to run. Durable before any effect."""

    call_id: str
    name: str
    input: JsonObject
    facts: JsonObject
    attempt: int = 1


@value_class(frozen=True, kw_only=True, slots=True)
class ToolFinished:
    """The result of a call, the same for the model and for people."""

    call_id: str
    name: str
    output: JsonValue
    is_error: bool = False
    context_updates: tuple[JsonObject, ...] = ()
    effects: tuple[JsonObject, ...] = ()
    """Rows to write in this commit, tagged by `type`: todos{todos}, output{content, parts, artifacts}."""


@value_class(frozen=True, kw_only=True, slots=True)
class FollowedUp:
    """The daemon speaks to the model: an unmet requirement, or a reply that was cut off."""

    reason: str
    """completion_requirements or output_truncated."""
    text: str
    tool_choice: ToolChoice | None = None
    max_output_tokens: int | None = None


@value_class(frozen=True, kw_only=True, slots=True)
class Microcompacted:
    """From here on the model reads only a stub of these old tool results."""

    turn: int
    cleared_tool_ids: tuple[str, ...]
    tokens_freed: int


@value_class(frozen=True, kw_only=True, slots=True)
class Snipped:
    """From here on the model no longer reads the oldest messages; the latest input stays whatever its age."""

    turn: int
    messages_removed: int
    tokens_freed: int
    new_head_offset: int
    """Messages that began before this offset are gone."""
    note: str = ""
    """What the model reads in their place."""


@value_class(frozen=True, kw_only=True, slots=True)
class Compacted:
    """A checkpoint: a summary stands for everything up to an offset, and a new prompt window begins."""

    turn: int
    trigger: str
    """auto or manual."""
    strategy: str
    """session_memory or model_driven."""
    pre_tokens: int
    post_tokens: int
    window_generation: int
    """Of the window that begins here; the first window of a session has 0."""
    compacted_until_offset: int
    title: str
    summary: str
    """What the model reads in place of the messages, word for word."""
    restoration: JsonObject
    """The session's facts that outlive the messages, in the wire contract's form."""
    usage: Usage = Usage()
    """Of the model call that wrote the summary."""
    access: CredentialUse | None = None
    """Of the same call, whether it came to a summary or not."""

    @property
    def window_id(self) -> str:
        return f"window-{self.window_generation}"


@value_class(frozen=True, kw_only=True, slots=True)
class Woken:
    """A due time passed."""


@value_class(frozen=True, kw_only=True, slots=True)
class Resumed:
    """A daemon found this run running in the journal and goes on with it."""

    reason: str
    turn: int
    reused_call_ids: tuple[str, ...] = ()
    in_doubt_call_ids: tuple[str, ...] = ()


@value_class(frozen=True, kw_only=True, slots=True)
class StopRequested:
    """Somebody wants the run to end: `cancelled` (aimed at it) or `interrupted` (aimed at the session)."""

    status: RunStatus
    error: str | None = None


@value_class(frozen=True, kw_only=True, slots=True)
class RunEnded:
    """The run's final state; nothing follows it."""

    status: RunStatus
    error: str | None = None
    output: str | None = None
    """The final assistant text."""


@value_class(frozen=True, kw_only=True, slots=True)
class SessionEnded:
    """An operator ended the session's current work; the session stays usable."""

    reason: str | None = None


Entry = (
    InputAccepted
    | RunStarted
    | ModelReplied
    | ModelFailed
    | CallsDecided
    | InDoubtAsked
    | ApprovalsResolved
    | QuestionRequested
    | QuestionResolved
    | ToolIntended
    | ToolFinished
    | FollowedUp
    | Microcompacted
    | Snipped
    | Compacted
    | Woken
    | Resumed
    | StopRequested
    | RunEnded
    | SessionEnded
)

MODEL_CALLS = (ModelReplied, ModelFailed, Compacted)
"""Entries with a model call behind them: with its `usage` and its `access`."""


@value_class(frozen=True, kw_only=True, slots=True)
class Recorded:
    """An entry in its place: offsets increase strictly within a session."""

    session_id: str
    offset: int
    at_ms: int
    run_id: str | None
    entry: Entry
