"""Facts → spans of runs, turns, model calls and tool calls, in the words of the gen_ai conventions. No text of anybody.

A span is made when it is over, with the times of the journal. A run's trace id follows from the run, so the part before
a restart and the part after it belong to one trace.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum

from kheish.core.messages import Usage
from kheish.core.values import value_class
from kheish.engine import entries as e
from kheish.engine.entries import RunStatus
from kheish.engine.state import RunState
from kheish.providers.protocol import ErrorKind
from kheish.telemetry.activity import Fact, ModelCall, RunAccepted, RunBegan, RunOver, RunResumed, ToolCall, ToolEnding
from kheish.telemetry.activity import WindowRelieved as Relieved

OTHER = "other"
_FAILURES = frozenset(kind.value for kind in ErrorKind)
_PROVIDERS = {"google": "gcp.gemini", "xai": "x_ai"}
"""Where the conventions name a provider otherwise than our drivers."""

Attribute = str | int | float | bool | tuple[str, ...]


class SpanKind(StrEnum):
    INTERNAL = "internal"
    CLIENT = "client"
    """The work was done elsewhere."""


@value_class(frozen=True, kw_only=True, slots=True)
class Span:
    """One finished span."""

    name: str
    trace_id: int
    span_id: int
    parent_id: int | None
    started_at_ms: int
    ended_at_ms: int
    attributes: dict[str, Attribute]
    kind: SpanKind = SpanKind.INTERNAL
    failed: bool = False


@dataclass(slots=True)
class _Turn:
    number: int
    span_id: int
    started_at_ms: int
    ended_at_ms: int


@dataclass(slots=True)
class _OpenRun:
    run: RunState
    trace_id: int
    span_id: int
    started_at_ms: int
    ended_at_ms: int
    resumed: bool
    turn: _Turn | None = None


class SpanBuilder:
    """Holds the open spans of runs that moved since the start."""

    def __init__(self, *, tool_names: Collection[str]) -> None:
        self._tool_names = frozenset(tool_names)
        self._open: dict[str, _OpenRun] = {}

    def take(self, fact: Fact) -> Iterator[Span]:
        """Yield the spans that ``fact`` completes, children before their parents."""
        match fact:
            case RunAccepted():
                return
            case RunBegan(run=run, at_ms=at_ms):
                self._begin(run, at_ms, resumed=False)
            case RunResumed(run=run, at_ms=at_ms):
                self._running(run, at_ms).resumed = True
            case ModelCall(run=run):
                opened = self._running(run, fact.started_at_ms)
                yield from _next_turn(opened, fact.entry.turn, fact.started_at_ms)
                yield _model_span(opened, fact)
            case ToolCall(run=run):
                opened = self._running(run, fact.started_at_ms or fact.ended_at_ms)
                yield from self._tool_span(opened, fact)
            case Relieved(run=run):
                opened = self._running(run, fact.started_at_ms)
                if isinstance(fact.entry, e.Compacted):
                    yield _compaction_span(opened, fact, fact.entry)
            case RunOver(run=run, at_ms=at_ms):
                # One that was cancelled in the queue has done nothing.
                if run.started_at_ms is not None:
                    yield from _ended(self._running(run, at_ms), at_ms)
                self._open.pop(run.run_id, None)

    def give_up(self, now_ms: int) -> Iterator[Span]:
        """Yield what is open, for a daemon that stops: these runs go on in another process."""
        for opened in tuple(self._open.values()):
            yield from _ended(opened, max(now_ms, opened.ended_at_ms))
        self._open.clear()

    def _begin(self, run: RunState, at_ms: int, *, resumed: bool) -> _OpenRun:
        opened = _OpenRun(
            run=run,
            trace_id=_trace_id(run),
            span_id=_span_id(),
            started_at_ms=at_ms,
            ended_at_ms=at_ms,
            resumed=resumed,
        )
        self._open[run.run_id] = opened
        return opened

    def _running(self, run: RunState, at_ms: int) -> _OpenRun:
        opened = self._open.get(run.run_id)
        if opened is None:
            # Begun by an earlier process.
            opened = self._begin(run, at_ms, resumed=True)
        opened.run = run
        opened.ended_at_ms = max(opened.ended_at_ms, at_ms)
        return opened

    def _tool_span(self, opened: _OpenRun, call: ToolCall) -> Iterator[Span]:
        if call.ending is ToolEnding.DENIED:
            return
        started_at_ms = call.ended_at_ms if call.started_at_ms is None else call.started_at_ms
        if opened.turn is None:
            yield from _next_turn(opened, call.run.turn, started_at_ms)
        name = call.entry.name if call.entry.name in self._tool_names else OTHER
        attributes: dict[str, Attribute] = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": name,
            "gen_ai.tool.type": "function",
            "gen_ai.tool.call.id": call.entry.call_id,
            "kheish.tool.outcome": call.ending.value,
            "kheish.tool.attempt": call.attempt,
        }
        failed = call.ending is not ToolEnding.OK
        if failed:
            attributes["error.type"] = call.ending.value
        yield _child(opened, f"execute_tool {name}", started_at_ms, call.ended_at_ms, attributes, failed=failed)


def _model_span(opened: _OpenRun, call: ModelCall) -> Span:
    run, entry = call.run, call.entry
    fallback = run.generation.fallback_model if call.attempt > 1 else None
    model = fallback or run.route.model
    attributes: dict[str, Attribute] = {
        "gen_ai.operation.name": "chat",
        **_model(run, model),
        "kheish.model.attempt": call.attempt,
    }
    failed = isinstance(entry, e.ModelFailed)
    if isinstance(entry, e.ModelFailed):
        attributes["error.type"] = entry.kind if entry.kind in _FAILURES else OTHER
    else:
        attributes["gen_ai.response.finish_reasons"] = (entry.finish_reason.value,)
        attributes.update(_usage(entry.usage))
    name = f"chat {model}"
    return _child(opened, name, call.started_at_ms, call.ended_at_ms, attributes, kind=SpanKind.CLIENT, failed=failed)


def _compaction_span(opened: _OpenRun, relief: Relieved, entry: e.Compacted) -> Span:
    attributes: dict[str, Attribute] = {
        "kheish.compaction.trigger": entry.trigger,
        "kheish.compaction.strategy": entry.strategy,
        "kheish.compaction.tokens_before": entry.pre_tokens,
        "kheish.compaction.tokens_after": entry.post_tokens,
        **_usage(entry.usage),
    }
    return _child(opened, "compact", relief.started_at_ms, relief.ended_at_ms, attributes)


def _child(
    opened: _OpenRun,
    name: str,
    started_at_ms: int,
    ended_at_ms: int,
    attributes: dict[str, Attribute],
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    failed: bool = False,
) -> Span:
    """A span inside the open turn, or inside the run when there is none."""
    parent = opened.span_id
    if opened.turn is not None:
        parent = opened.turn.span_id
        opened.turn.ended_at_ms = max(opened.turn.ended_at_ms, ended_at_ms)
    opened.ended_at_ms = max(opened.ended_at_ms, ended_at_ms)
    return Span(
        name=name,
        trace_id=opened.trace_id,
        span_id=_span_id(),
        parent_id=parent,
        started_at_ms=started_at_ms,
        ended_at_ms=ended_at_ms,
        attributes={**_identity(opened.run), **attributes},
        kind=kind,
        failed=failed,
    )


def _next_turn(opened: _OpenRun, number: int, at_ms: int) -> Iterator[Span]:
    if opened.turn is not None and opened.turn.number == number:
        return
    yield from _ended_turn(opened)
    opened.turn = _Turn(number=number, span_id=_span_id(), started_at_ms=at_ms, ended_at_ms=at_ms)


def _ended_turn(opened: _OpenRun) -> Iterator[Span]:
    turn, opened.turn = opened.turn, None
    if turn is not None:
        yield Span(
            name="turn",
            trace_id=opened.trace_id,
            span_id=turn.span_id,
            parent_id=opened.span_id,
            started_at_ms=turn.started_at_ms,
            ended_at_ms=turn.ended_at_ms,
            attributes={**_identity(opened.run), "kheish.turn": turn.number},
        )


def _ended(opened: _OpenRun, at_ms: int) -> Iterator[Span]:
    yield from _ended_turn(opened)
    run = opened.run
    attributes: dict[str, Attribute] = {
        **_identity(run),
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.id": run.agent_id,
        **_model(run, run.route.model),
        **_usage(run.usage),
        "kheish.run.status": run.status.value,
        "kheish.run.turns": run.turn,
        "kheish.run.resumed": opened.resumed,
    }
    if run.started_at_ms is not None:
        attributes["kheish.run.queued_ms"] = max(0, run.started_at_ms - run.submitted_at_ms)
    failed = run.status is RunStatus.FAILED
    if failed:
        attributes["error.type"] = run.status.value
    yield Span(
        name="invoke_agent",
        trace_id=opened.trace_id,
        span_id=opened.span_id,
        parent_id=None,
        started_at_ms=opened.started_at_ms,
        ended_at_ms=at_ms,
        attributes=attributes,
        failed=failed,
    )


def _identity(run: RunState) -> dict[str, Attribute]:
    return {"gen_ai.conversation.id": run.session_id, "kheish.run.id": run.run_id}


def _model(run: RunState, model: str) -> dict[str, Attribute]:
    provider = _PROVIDERS.get(run.route.driver, run.route.driver)
    return {"gen_ai.provider.name": provider, "gen_ai.request.model": model, "kheish.route.id": run.route.route_id}


def _usage(usage: Usage) -> dict[str, Attribute]:
    return {
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_input_tokens,
    }


def _trace_id(run: RunState) -> int:
    told = f"{run.session_id}\0{run.run_id}\0{run.submitted_at_ms}"
    return int.from_bytes(hashlib.sha256(told.encode()).digest()[:16], "big") or 1


def _span_id() -> int:
    return secrets.randbits(64) or 1
