"""fold: journal entries → the state of a run and of its session. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from kheish.core.jsonvalue import JsonObject
from kheish.core.messages import FinishReason, Generation, TextPart, ToolCallPart, ToolChoice, Usage
from kheish.core.values import changed, value_class
from kheish.engine import entries as e
from kheish.engine.entries import Decision, Recorded, RouteRef, Ruling, RunStatus
from kheish.providers.protocol import ErrorKind


@value_class(frozen=True, kw_only=True, slots=True)
class CallState:
    """One tool call of the current message and how far it came."""

    call: ToolCallPart
    decision: Decision | None = None
    resolution: JsonObject | None = None
    """How a human resolved the approval."""
    question: JsonObject | None = None
    intent: e.ToolIntended | None = None
    attempts: int = 0
    """Intents recorded so far."""
    finished: e.ToolFinished | None = None

    @property
    def input(self) -> JsonObject:
        """What to execute: a human's replacement, else the normalised input, else the model's."""
        if self.resolution is not None and isinstance(updated := self.resolution.get("updated_input"), dict):
            return updated
        if self.decision is not None and self.decision.input is not None:
            return self.decision.input
        return self.call.input

    @property
    def asking(self) -> bool:
        """Waiting for a human's approval."""
        return self.decision is not None and self.decision.ruling is Ruling.ASK and self.resolution is None

    @property
    def in_doubt(self) -> bool:
        """The intent is durable, the outcome is not: it may have run."""
        return self.intent is not None and self.finished is None

    @property
    def denied(self) -> bool:
        """A rule, a mode or a human said no, or the runtime refused the call."""
        if self.decision is None:
            return False
        if self.decision.ruling is Ruling.ASK:
            return self.resolution is not None and self.resolution.get("behavior") == "deny"
        return self.decision.ruling in (Ruling.DENY, Ruling.REFUSE)


@value_class(frozen=True, kw_only=True)
class RunState:
    """Everything that is known about one run; each field comes from the journal."""

    run_id: str
    session_id: str
    agent_id: str
    kind: str
    status: RunStatus
    accepted: e.InputAccepted
    submitted_at_ms: int
    updated_at_ms: int
    first_offset: int
    last_offset: int
    started_at_ms: int | None = None
    finished_at_ms: int | None = None
    turn: int = 0
    """Model replies recorded so far."""
    replied: e.ModelReplied | None = None
    calls: tuple[CallState, ...] = ()
    """The calls of the last assistant message."""
    failed_attempts: int = 0
    """Failed attempts of the current model call."""
    last_failure: e.ModelFailed | None = None
    due_at_ms: int | None = None
    """The run waits until then."""
    max_output_tokens: int | None = None
    """Raised or lowered ceiling for the next model call."""
    tool_choice: ToolChoice | None = None
    """Forced for the next model call."""
    follow_ups: int = 0
    truncations: int = 0
    overflows: int = 0
    """How often the provider found the current model call too large for its window."""
    relieved: int = 0
    """For how many of these the window was made smaller since."""
    partial_text: str = ""
    """Text of replies that were cut off, to be continued."""
    files_modified: frozenset[str] = frozenset()
    approvals_asked: int = 0
    questions_asked: int = 0
    stop: e.StopRequested | None = None
    error: str | None = None
    output: str | None = None
    resumes: int = 0
    """Resumes since the run last made progress."""
    usage: Usage = Usage()

    @property
    def route(self) -> RouteRef:
        return self.accepted.route

    @property
    def generation(self) -> Generation:
        return self.accepted.generation

    @property
    def pending_approvals(self) -> tuple[JsonObject, ...]:
        """ApprovalRequest objects a human has not resolved yet, in call order."""
        if self.status.terminal:
            return ()
        found = (call.decision.approval for call in self.calls if call.asking and call.decision is not None)
        return tuple(request for request in found if request is not None)

    @property
    def pending_questions(self) -> tuple[JsonObject, ...]:
        """UserQuestionRequest objects a human has not answered yet."""
        if self.status.terminal:
            return ()
        return tuple(call.question for call in self.calls if call.question is not None and call.finished is None)

    def call(self, call_id: str) -> CallState | None:
        return next((call for call in self.calls if call.call.call_id == call_id), None)


def accept(recorded: Recorded, entry: e.InputAccepted) -> RunState:
    """The state of a run right after its acceptance."""
    assert recorded.run_id is not None
    return RunState(
        run_id=recorded.run_id,
        session_id=recorded.session_id,
        agent_id=entry.agent_id,
        kind=entry.kind,
        status=RunStatus.QUEUED,
        accepted=entry,
        submitted_at_ms=recorded.at_ms,
        updated_at_ms=recorded.at_ms,
        first_offset=recorded.offset,
        last_offset=recorded.offset,
    )


def apply(state: RunState, recorded: Recorded) -> RunState:
    """Return the state after one more entry of this run."""
    after = object.__new__(RunState)
    # `replace`, without its look at each of some thirty fields and without the constructor of a frozen class.
    fields = vars(after)
    fields.update(vars(state))
    fields.update(updated_at_ms=recorded.at_ms, last_offset=recorded.offset, **_changes(state, recorded))
    return after


_Changes = dict[str, object]
"""Fields of a run's state by name: collected first, for a new state is made only once an entry."""


def _changes(state: RunState, recorded: Recorded) -> _Changes:
    entry = recorded.entry
    match entry:
        case e.RunStarted():
            return {"status": RunStatus.RUNNING, "started_at_ms": recorded.at_ms}
        case e.ModelReplied():
            return _after_reply(state, entry)
        case e.ModelFailed():
            return _after_failure(state, entry)
        case e.CallsDecided():
            return _after_decisions(state, entry)
        case e.InDoubtAsked():
            return _after_doubt(state, entry)
        case e.ApprovalsResolved():
            return _after_resolutions(state, entry)
        case e.QuestionRequested():
            return _after_question(state, entry)
        case e.QuestionResolved():
            return {"status": RunStatus.RUNNING, "kind": "user_question_resume", "due_at_ms": None}
        case e.ToolIntended(call_id=call_id, attempt=attempt):
            return {"calls": _with_call(state, call_id, intent=entry, attempts=attempt)}
        case e.ToolFinished():
            return _after_result(state, entry)
        case e.FollowedUp():
            return _after_follow_up(state, entry)
        case e.Snipped():
            return {"relieved": state.overflows}
        case e.Compacted():
            return {"relieved": state.overflows, "resumes": 0, "usage": state.usage + entry.usage}
        case e.Woken():
            return {"due_at_ms": None}
        case e.Resumed():
            return {"resumes": state.resumes + 1}
        case e.StopRequested():
            return {"stop": entry}
        case e.RunEnded():
            ended: _Changes = {"status": entry.status, "error": entry.error, "output": entry.output}
            return {**ended, "finished_at_ms": recorded.at_ms, "due_at_ms": None}
        case e.Microcompacted() | e.InputAccepted() | e.SessionEnded():
            return {}


def _after_reply(state: RunState, entry: e.ModelReplied) -> _Changes:
    calls = tuple(CallState(call=part) for part in entry.parts if isinstance(part, ToolCallPart))
    return {
        "turn": entry.turn,
        "replied": entry,
        "calls": calls,
        "failed_attempts": 0,
        "last_failure": None,
        "max_output_tokens": None,
        "tool_choice": None,
        "resumes": 0,
        # Only an answer is continued; what was cut off before a tool call is not part of the next one.
        "partial_text": "" if calls else state.partial_text,
        "truncations": 0 if calls else state.truncations,
        "overflows": 0,
        "relieved": 0,
        "usage": state.usage + entry.usage,
    }


def _after_failure(state: RunState, entry: e.ModelFailed) -> _Changes:
    return {
        "failed_attempts": entry.attempt,
        "last_failure": entry,
        "due_at_ms": entry.retry_at_ms,
        "max_output_tokens": entry.max_output_tokens or state.max_output_tokens,
        "overflows": state.overflows + overflowed(entry),
        "usage": state.usage + entry.usage,
    }


def overflowed(entry: e.ModelFailed) -> bool:
    """The request was too large, and lowering the output ceiling is no way out."""
    return entry.kind == ErrorKind.CONTEXT_WINDOW_EXCEEDED and entry.retry_at_ms is None


def _after_question(state: RunState, entry: e.QuestionRequested) -> _Changes:
    return {
        "calls": _with_call(state, entry.call_id, question=entry.request),
        "status": RunStatus.WAITING_FOR_USER_QUESTION,
        "due_at_ms": _optional_int(entry.request.get("expires_at_ms")),
        "questions_asked": state.questions_asked + 1,
    }


def _after_decisions(state: RunState, entry: e.CallsDecided) -> _Changes:
    by_id = {decision.call_id: decision for decision in entry.decisions}
    calls = tuple(changed(call, decision=by_id.get(call.call.call_id, call.decision)) for call in state.calls)
    asked = sum(decision.ruling is Ruling.ASK for decision in entry.decisions)
    status = RunStatus.WAITING_FOR_APPROVAL if asked else state.status
    return {"calls": calls, "status": status, "approvals_asked": state.approvals_asked + asked}


def _after_doubt(state: RunState, entry: e.InDoubtAsked) -> _Changes:
    by_id = {request["tool_call_id"]: request for request in entry.requests}
    calls = tuple(_asked_again(call, by_id.get(call.call.call_id)) for call in state.calls)
    asked = state.approvals_asked + len(entry.requests)
    return {"calls": calls, "status": RunStatus.WAITING_FOR_APPROVAL, "approvals_asked": asked}


def _asked_again(call: CallState, request: JsonObject | None) -> CallState:
    """The call as before its intent, except for the attempts, waiting for a human; its input is what was tried."""
    if request is None or call.decision is None:
        return call
    decision = changed(call.decision, ruling=Ruling.ASK, approval=request, input=call.input)
    return changed(call, decision=decision, resolution=None, intent=None)


def _after_resolutions(state: RunState, entry: e.ApprovalsResolved) -> _Changes:
    by_id = {resolution["request_id"]: resolution for resolution in entry.resolutions}
    calls = tuple(
        changed(call, resolution=by_id.get(call.decision.approval["id"], call.resolution))
        if call.decision is not None and call.decision.approval is not None
        else call
        for call in state.calls
    )
    if any(call.asking for call in calls):
        return {"calls": calls}
    # A human's decision is progress: whoever allows a call again and again is no crash loop.
    return {"calls": calls, "status": RunStatus.RUNNING, "kind": "approval_resume", "resumes": 0}


def _after_result(state: RunState, entry: e.ToolFinished) -> _Changes:
    modified = {
        str(update["path"])
        for update in entry.context_updates
        if update.get("type") == "file_modified" and "path" in update
    }
    calls = _with_call(state, entry.call_id, finished=entry)
    return {"calls": calls, "files_modified": state.files_modified | modified, "resumes": 0}


def _after_follow_up(state: RunState, entry: e.FollowedUp) -> _Changes:
    truncated = entry.reason == "output_truncated"
    cut = "" if state.replied is None else _visible_text(state.replied)
    return {
        "replied": None,
        "calls": (),
        "follow_ups": state.follow_ups + (not truncated),
        "truncations": state.truncations + 1 if truncated else 0,
        "partial_text": state.partial_text + cut if truncated else "",
        "tool_choice": entry.tool_choice,
        "max_output_tokens": entry.max_output_tokens,
    }


def _visible_text(reply: e.ModelReplied) -> str:
    return "".join(part.text for part in reply.parts if isinstance(part, TextPart))


def final_text(state: RunState) -> str:
    """The assistant's answer so far, continuations of cut-off replies joined."""
    return state.partial_text + ("" if state.replied is None else _visible_text(state.replied))


def was_truncated(state: RunState) -> bool:
    """The last reply hit the output ceiling and asks for no tools."""
    return state.replied is not None and state.replied.finish_reason is FinishReason.MAX_TOKENS and not state.calls


def _with_call(state: RunState, call_id: str, **changes: object) -> tuple[CallState, ...]:
    return tuple(
        changed(call, **changes) if call.call.call_id == call_id else call  # type: ignore[arg-type]  # names checked by callers
        for call in state.calls
    )


def _optional_int(value: object) -> int | None:
    return value if isinstance(value, int) else None


@value_class(frozen=True, kw_only=True, slots=True)
class SessionState:
    """One session's execution: at most one active run, the rest in order of submission."""

    session_id: str
    next_offset: int = 1
    active: RunState | None = None
    queue: tuple[RunState, ...] = ()

    def run(self, run_id: str) -> RunState | None:
        """The live run with this id; None when it is terminal or not of this session."""
        if self.active is not None and self.active.run_id == run_id:
            return self.active
        return next((run for run in self.queue if run.run_id == run_id), None) if self.queue else None

    @property
    def busy(self) -> bool:
        return self.active is not None or bool(self.queue)


def advance(session: SessionState, recorded: Recorded) -> SessionState:
    """Return the session after one more entry."""
    return advanced(session, recorded, touched(session, recorded))


def touched(session: SessionState, recorded: Recorded) -> RunState | None:
    """The run an entry belongs to, after it; None when it belongs to no live run."""
    if recorded.run_id is None:
        return None
    if isinstance(recorded.entry, e.InputAccepted):
        return accept(recorded, recorded.entry)
    before = session.run(recorded.run_id)
    return None if before is None else apply(before, recorded)


def advanced(session: SessionState, recorded: Recorded, after: RunState | None) -> SessionState:
    """The session after an entry that left its run as ``after``."""
    active, queue = session.active, session.queue
    if after is not None:
        if isinstance(recorded.entry, e.InputAccepted):
            queue = (*queue, after)
        elif after.status is RunStatus.QUEUED:
            queue = tuple(after if run.run_id == after.run_id else run for run in queue)
        else:
            if queue:
                queue = tuple(run for run in queue if run.run_id != after.run_id)
            if not after.status.terminal:
                active = after
            elif active is not None and active.run_id == after.run_id:
                active = None
    return SessionState(session_id=session.session_id, next_offset=recorded.offset + 1, active=active, queue=queue)


def fold(session_id: str, journal: Iterable[Recorded]) -> SessionState:
    """The session's state from its whole journal."""
    session = SessionState(session_id=session_id)
    for recorded in journal:
        session = advance(session, recorded)
    return session
