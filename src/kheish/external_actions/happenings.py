"""Journal entries → what they say of actions outside of the daemon. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

from kheish.auth.audit_chain import Action, Phase
from kheish.engine import entries as e
from kheish.engine.decide import CallModel, decide
from kheish.engine.entries import CredentialUse, Recorded, RunStatus
from kheish.engine.model_calls import STOPPED
from kheish.engine.ports import Transition
from kheish.engine.relief import MODEL_DRIVEN
from kheish.engine.state import RunState

PROVIDER_CALL = "provider_call"
TOOL_CALL = "tool_call"

SUCCEEDED = "succeeded"
FAILED = "failed"
NOT_SENT = "not_sent"
"""A budget or a missing credential kept the call from being made."""
INTERRUPTED = "interrupted"
IN_DOUBT = "in_doubt"
"""The daemon ended while it ran: it may or may not have taken effect."""

_TELLING = (e.ModelReplied, e.ModelFailed, e.Compacted, e.ToolIntended, e.ToolFinished)
"""Entries that may say something."""
_RELIEF = (e.Microcompacted, e.Snipped)
"""Entries that come between the announcement of a model call and the call."""


def actions_of(transition: Transition, acts_outside: Callable[[str], bool]) -> list[Action]:
    """What the entries of one commit say, in order. ``acts_outside`` tells it of a tool by its name.

    A model call has no entry of its own before it is made: it is announced by the commit that leads to it. An
    announcement without an answer is a call that the end of the daemon cut off, or kept from being made.
    """
    runs = {run.run_id: run for run in transition.runs}
    found: list[Action] = []
    for recorded, body in zip(transition.entries, transition.bodies, strict=True):
        if isinstance(recorded.entry, _TELLING) and (run := runs.get(recorded.run_id or "")) is not None:
            found.extend(_of_entry(recorded, body, run, acts_outside))
    for run in runs.values():
        if run.status is RunStatus.RUNNING and isinstance(decide(run), CallModel) and _moved(run, transition):
            found.append(_provider_call(run, run.updated_at_ms, Phase.REQUEST))
    return found


def body_digest(body: bytes) -> str:
    """SHA-256 of an entry's body, as the journal holds it; hex."""
    return hashlib.sha256(body).hexdigest()


def entries_named(action: Action) -> Iterator[str]:
    """The digests of journal entries in a record; a provider's request is no entry."""
    if action.response_digest is not None:
        yield action.response_digest
    if action.kind == TOOL_CALL and action.request_digest is not None:
        yield action.request_digest


def _moved(run: RunState, transition: Transition) -> bool:
    return any(one.run_id == run.run_id and not isinstance(one.entry, _RELIEF) for one in transition.entries)


def _of_entry(recorded: Recorded, body: bytes, run: RunState, acts_outside: Callable[[str], bool]) -> Iterator[Action]:
    entry = recorded.entry
    match entry:
        case e.ModelReplied():
            yield _answered(recorded, body, run, entry.access, SUCCEEDED)
        case e.ModelFailed(kind=kind):
            yield _answered(recorded, body, run, entry.access, _refusal(entry, kind))
        case e.Compacted(strategy=strategy) if entry.access is not None:
            yield _answered(recorded, body, run, entry.access, SUCCEEDED if strategy == MODEL_DRIVEN else FAILED)
        case e.ToolIntended(call_id=call_id, name=name) if acts_outside(name):
            yield _tool_call(run, recorded.at_ms, Phase.REQUEST, call_id, name, request_digest=body_digest(body))
        case e.ToolFinished(call_id=call_id, name=name) if acts_outside(name) and _began(run, call_id):
            told = {"response_digest": body_digest(body), "outcome": _outcome(entry)}
            yield _tool_call(run, recorded.at_ms, Phase.RESPONSE, call_id, name, **told)


def _answered(recorded: Recorded, body: bytes, run: RunState, use: CredentialUse | None, outcome: str) -> Action:
    return _provider_call(
        run,
        recorded.at_ms,
        Phase.RESPONSE,
        grant_id=None if use is None else use.grant_id,
        request_digest=None if use is None else use.request_digest,
        response_digest=body_digest(body),
        outcome=outcome,
    )


def _refusal(entry: e.ModelFailed, kind: str) -> str:
    if kind == STOPPED:
        return INTERRUPTED
    return f"{NOT_SENT if entry.access is None else FAILED}:{kind}"


def _provider_call(run: RunState, at_ms: int, phase: Phase, **told: str | None) -> Action:
    route = run.route
    return _action(run, at_ms, phase, PROVIDER_CALL, f"route:{route.route_id}/{route.driver}", **told)


def _tool_call(run: RunState, at_ms: int, phase: Phase, call_id: str, name: str, **told: str | None) -> Action:
    return _action(run, at_ms, phase, TOOL_CALL, f"tool:{name}", tool_call_id=call_id, **told)


def _action(run: RunState, at_ms: int, phase: Phase, kind: str, target: str, **told: str | None) -> Action:
    return Action(
        timestamp_ms=at_ms,
        session_id=run.session_id,
        agent_id=run.agent_id,
        run_id=run.run_id,
        phase=phase,
        kind=kind,
        target=target,
        **told,
    )


def _began(run: RunState, call_id: str) -> bool:
    """A call that was denied has an outcome without ever having begun."""
    call = run.call(call_id)
    return call is None or call.attempts > 0


def _outcome(entry: e.ToolFinished) -> str:
    if not entry.is_error:
        return SUCCEEDED
    if isinstance(entry.output, dict) and entry.output.get("interrupted") is True:
        return IN_DOUBT if entry.output.get("reason") == "daemon_restart" else INTERRUPTED
    return FAILED
