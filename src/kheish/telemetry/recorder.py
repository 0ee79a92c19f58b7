"""Counts and measures what becomes durable. Labels are route ids, tool names of this daemon and words of ours."""

from __future__ import annotations

from collections.abc import Collection

from prometheus_client import CollectorRegistry, Counter, Histogram

from kheish.core.messages import Usage
from kheish.engine import entries as e
from kheish.engine.ports import Transition
from kheish.providers.protocol import ErrorKind
from kheish.telemetry.activity import (
    Activity,
    Fact,
    ModelCall,
    RunAccepted,
    RunBegan,
    RunOver,
    RunResumed,
    ToolCall,
    WindowRelieved,
)

OTHER = "other"
"""Stands for every tool the daemon does not have: its name is the model's invention."""
_RUN_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14400)
_MODEL_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300)
_TOOL_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_FAILURES = frozenset(kind.value for kind in ErrorKind)
_RELIEF = {e.Microcompacted: "microcompact", e.Snipped: "snip", e.Compacted: "compact"}


class _Runs:
    """What is counted of runs as a whole."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.accepted = Counter("kheish_runs_accepted", "Runs accepted.", registry=registry)
        self.ended = Counter("kheish_runs_ended", "Runs that reached a final status.", ["status"], registry=registry)
        self.queued_s = Histogram(
            "kheish_run_queue_seconds", "From acceptance to the start.", buckets=_RUN_SECONDS, registry=registry
        )
        self.run_s = Histogram(
            "kheish_run_duration_seconds",
            "From the start to the end, waits for people included.",
            buckets=_RUN_SECONDS,
            registry=registry,
        )
        self.resumed = Counter("kheish_recovery_resumed_runs", "Runs that went on after a restart.", registry=registry)
        self.in_doubt = Counter(
            "kheish_recovery_in_doubt_calls", "Tool calls that may have run when the daemon died.", registry=registry
        )
        for status in e.RunStatus:
            if status.terminal:
                self.ended.labels(status.value)


class _Work:
    """What is counted of model calls and tools."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.turns = Counter("kheish_turns", "Model replies recorded.", registry=registry)
        self.model_calls = Counter(
            "kheish_model_calls", "Attempts of model calls.", ["route", "outcome"], registry=registry
        )
        self.model_s = Histogram(
            "kheish_model_call_duration_seconds",
            "From the commit that led to an attempt to its outcome.",
            ["route"],
            buckets=_MODEL_SECONDS,
            registry=registry,
        )
        self.tokens = Counter(
            "kheish_model_tokens", "Tokens as providers count them.", ["route", "kind"], registry=registry
        )
        self.cost = Counter(
            "kheish_model_cost_usd", "Cost of model calls where prices are known.", ["route"], registry=registry
        )
        self.tool_calls = Counter(
            "kheish_tool_calls", "Tool calls with a result.", ["tool", "outcome"], registry=registry
        )
        self.tool_s = Histogram(
            "kheish_tool_call_duration_seconds",
            "From the intent to the result; calls that run side by side end together.",
            ["tool"],
            buckets=_TOOL_SECONDS,
            registry=registry,
        )
        self.relieved = Counter(
            "kheish_context_reliefs", "Times a prompt was made smaller.", ["kind"], registry=registry
        )


class _Answers:
    """What the answers of one route's models add to, looked up once."""

    def __init__(self, work: _Work, route: str) -> None:
        self.call_s = work.model_s.labels(route)
        self.answered = work.model_calls.labels(route, "ok")
        self.input_tokens = work.tokens.labels(route, "input")
        self.output_tokens = work.tokens.labels(route, "output")
        self.cached_input_tokens = work.tokens.labels(route, "cached_input")
        self.cost = work.cost.labels(route)

    def spend(self, usage: Usage) -> None:
        if usage.input_tokens > 0:
            self.input_tokens.inc(usage.input_tokens)
        if usage.output_tokens > 0:
            self.output_tokens.inc(usage.output_tokens)
        if usage.cached_input_tokens > 0:
            self.cached_input_tokens.inc(usage.cached_input_tokens)
        if usage.cost_usd > 0:
            self.cost.inc(usage.cost_usd)


class Recorder:
    """An observer of the engine that keeps the counters of one daemon since its start."""

    def __init__(self, registry: CollectorRegistry, *, tool_names: Collection[str]) -> None:
        self._activity = Activity()
        self._tool_names = frozenset(tool_names)
        self._runs = _Runs(registry)
        self._work = _Work(registry)
        self._answers: dict[str, _Answers] = {}

    def committed(self, transition: Transition) -> None:
        """Take one durable transition."""
        for fact in self._activity.read(transition):
            self._take(fact)

    def _take(self, fact: Fact) -> None:
        match fact:
            case RunAccepted():
                self._runs.accepted.inc()
            case RunBegan(run=run, at_ms=at_ms):
                self._runs.queued_s.observe(_seconds(run.submitted_at_ms, at_ms))
            case ModelCall():
                self._take_model_call(fact)
            case ToolCall():
                self._take_tool_call(fact)
            case WindowRelieved(run=run, entry=entry):
                self._work.relieved.labels(_RELIEF[type(entry)]).inc()
                if isinstance(entry, e.Compacted):
                    self._answers_of(run.route.route_id).spend(entry.usage)
            case RunResumed(entry=entry):
                self._runs.resumed.inc()
                self._runs.in_doubt.inc(len(entry.in_doubt_call_ids))
            case RunOver(run=run, at_ms=at_ms):
                self._runs.ended.labels(run.status.value).inc()
                if run.started_at_ms is not None:
                    self._runs.run_s.observe(_seconds(run.started_at_ms, at_ms))

    def _take_model_call(self, call: ModelCall) -> None:
        route = call.run.route.route_id
        seconds = _seconds(call.started_at_ms, call.ended_at_ms)
        if isinstance(call.entry, e.ModelFailed):
            outcome = call.entry.kind if call.entry.kind in _FAILURES else OTHER
            self._work.model_s.labels(route).observe(seconds)
            self._work.model_calls.labels(route, outcome).inc()
            return
        answers = self._answers_of(route)
        answers.call_s.observe(seconds)
        answers.answered.inc()
        answers.spend(call.entry.usage)
        self._work.turns.inc()

    def _take_tool_call(self, call: ToolCall) -> None:
        tool = call.entry.name if call.entry.name in self._tool_names else OTHER
        self._work.tool_calls.labels(tool, call.ending.value).inc()
        if call.started_at_ms is not None:
            self._work.tool_s.labels(tool).observe(_seconds(call.started_at_ms, call.ended_at_ms))

    def _answers_of(self, route: str) -> _Answers:
        known = self._answers.get(route)
        if known is None:
            known = self._answers[route] = _Answers(self._work, route)
        return known


def _seconds(from_ms: int, to_ms: int) -> float:
    return max(0, to_ms - from_ms) / 1000
