"""Committed transitions → what took place, with its beginning and its end. Reads entries and their times only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from kheish.core.values import value_class
from kheish.engine import entries as e
from kheish.engine.entries import Recorded
from kheish.engine.ports import Transition
from kheish.engine.state import RunState


class ToolEnding(StrEnum):
    """How a tool call ended."""

    OK = "ok"
    ERROR = "error"
    DENIED = "denied"
    """A rule, a mode or a human said no, or the call was not admissible: it never ran."""
    INTERRUPTED = "interrupted"
    """Its run was stopped."""
    IN_DOUBT = "in_doubt"
    """The daemon died while it ran, and it was not repeated."""


@value_class(frozen=True, kw_only=True, slots=True)
class RunAccepted:
    run: RunState


@value_class(frozen=True, kw_only=True, slots=True)
class RunBegan:
    """The run left the queue."""

    run: RunState
    at_ms: int


@value_class(frozen=True, kw_only=True, slots=True)
class ModelCall:
    """One attempt of a model call, answered or failed."""

    run: RunState
    entry: e.ModelReplied | e.ModelFailed
    attempt: int
    started_at_ms: int
    """The commit that led to the call."""
    ended_at_ms: int


@value_class(frozen=True, kw_only=True, slots=True)
class ToolCall:
    """One tool call has its result."""

    run: RunState
    entry: e.ToolFinished
    ending: ToolEnding
    attempt: int
    started_at_ms: int | None
    """Its intent; None when this process has not seen one."""
    ended_at_ms: int
    """The commit of the result: calls that ran side by side end together."""


@value_class(frozen=True, kw_only=True, slots=True)
class WindowRelieved:
    """Old messages left the prompt."""

    run: RunState
    entry: e.Microcompacted | e.Snipped | e.Compacted
    started_at_ms: int
    ended_at_ms: int


@value_class(frozen=True, kw_only=True, slots=True)
class RunResumed:
    """A daemon went on with a run that an earlier process had begun."""

    run: RunState
    entry: e.Resumed
    at_ms: int


@value_class(frozen=True, kw_only=True, slots=True)
class RunOver:
    run: RunState
    at_ms: int


Fact = RunAccepted | RunBegan | ModelCall | ToolCall | WindowRelieved | RunResumed | RunOver


@dataclass(slots=True)
class _Clocks:
    """What is remembered of a live run between its commits."""

    last_at_ms: int
    """Its newest entry: what runs now began right after it."""
    intents: dict[str, int] = field(default_factory=dict)
    """When each call in flight was recorded."""
    failed_attempts: int = 0


class Activity:
    """Holds one small record per live run that moved since the start, and nothing else."""

    def __init__(self) -> None:
        self._clocks: dict[str, _Clocks] = {}

    def read(self, transition: Transition) -> Iterator[Fact]:
        """Yield what ``transition`` tells, in the order of its entries; every transition once, in order."""
        runs = {run.run_id: run for run in transition.runs}
        for recorded in transition.entries:
            run = None if recorded.run_id is None else runs.get(recorded.run_id)
            fact = None if run is None else self._fact(recorded, run)
            if fact is not None:
                yield fact

    def _fact(self, recorded: Recorded, run: RunState) -> Fact | None:
        at_ms, entry = recorded.at_ms, recorded.entry
        clocks = self._clocks.get(run.run_id)
        if clocks is None:
            clocks = self._clocks[run.run_id] = _Clocks(at_ms)
        began_ms, clocks.last_at_ms = clocks.last_at_ms, at_ms
        match entry:
            case e.InputAccepted():
                return RunAccepted(run=run)
            case e.RunStarted():
                return RunBegan(run=run, at_ms=at_ms)
            case e.ModelReplied() | e.ModelFailed():
                return _model_call(run, entry, clocks, began_ms)
            case e.ToolIntended(call_id=call_id):
                clocks.intents[call_id] = at_ms
            case e.ToolFinished(call_id=call_id):
                return _tool_call(run, entry, clocks.intents.pop(call_id, None), at_ms)
            case e.Microcompacted() | e.Snipped() | e.Compacted():
                return WindowRelieved(run=run, entry=entry, started_at_ms=began_ms, ended_at_ms=at_ms)
            case e.Resumed():
                return RunResumed(run=run, entry=entry, at_ms=at_ms)
            case e.RunEnded():
                del self._clocks[run.run_id]
                return RunOver(run=run, at_ms=at_ms)
            case _:
                pass
        return None


def _model_call(run: RunState, entry: e.ModelReplied | e.ModelFailed, clocks: _Clocks, began_ms: int) -> ModelCall:
    attempt = entry.attempt if isinstance(entry, e.ModelFailed) else clocks.failed_attempts + 1
    clocks.failed_attempts = attempt if isinstance(entry, e.ModelFailed) else 0
    return ModelCall(run=run, entry=entry, attempt=attempt, started_at_ms=began_ms, ended_at_ms=clocks.last_at_ms)


def _tool_call(run: RunState, entry: e.ToolFinished, started_at_ms: int | None, at_ms: int) -> ToolCall:
    state = run.call(entry.call_id)
    return ToolCall(
        run=run,
        entry=entry,
        ending=_ending(entry, denied=state is not None and state.denied),
        attempt=1 if state is None else max(1, state.attempts),
        started_at_ms=started_at_ms,
        ended_at_ms=at_ms,
    )


def _ending(entry: e.ToolFinished, *, denied: bool) -> ToolEnding:
    if not entry.is_error:
        return ToolEnding.OK
    output = entry.output
    if isinstance(output, dict) and output.get("interrupted") is True:
        return ToolEnding.IN_DOUBT if output.get("reason") == "daemon_restart" else ToolEnding.INTERRUPTED
    return ToolEnding.DENIED if denied else ToolEnding.ERROR
