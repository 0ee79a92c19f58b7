"""What a scrape reads at its moment: gauges, and counters that other rooms keep."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.core.values import value_class
from kheish.engine.entries import RunStatus
from kheish.engine.ports import RecoveryCounts
from kheish.store.distribution import Spread
from kheish.store.statistics import WriteStatistics


@value_class(frozen=True, kw_only=True, slots=True)
class SpanCounts:
    """What became of spans."""

    exported: int
    dropped: int


@value_class(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """Everything that is not counted from transitions."""

    runs: JsonObject | None
    """The `runs` block of the status snapshot; None when the store could not be read."""
    sessions: int
    active_sessions: int
    ready: bool
    events: JsonObject
    """The `events` block of the status snapshot."""
    writes: WriteStatistics
    recovered: RecoveryCounts
    observer_failures: int
    spans: SpanCounts | None
    """None: spans are off."""


class SnapshotCollector(Collector):
    """Turns the newest snapshot into metric families."""

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = None

    def collect(self) -> Iterator[Metric]:
        found = self.snapshot
        if found is None:
            return
        yield _gauge("kheish_ready", "1 while the daemon takes work.", found.ready)
        yield _gauge("kheish_store_readable", "1 when the store answered this scrape.", found.runs is not None)
        if found.runs is not None:
            yield from _runs(found.runs)
            yield _gauge("kheish_sessions", "Sessions there are.", found.sessions)
        yield _gauge("kheish_active_sessions", "Sessions at work right now.", found.active_sessions)
        yield from _events(found.events)
        yield from _store(found.writes)
        yield from _recovery(found.recovered)
        yield _counter(
            "kheish_observer_failures", "Commits that metrics or traces could not take.", found.observer_failures
        )
        if found.spans is not None:
            yield _counter("kheish_spans_exported", "Spans the collector took.", found.spans.exported)
            yield _counter("kheish_spans_dropped", "Spans lost: queue full or refused.", found.spans.dropped)


def _runs(runs: JsonObject) -> Iterator[Metric]:
    by_status = GaugeMetricFamily("kheish_runs", "Runs by status.", labels=["status"])
    for status in RunStatus:
        by_status.add_metric([status.value], _number(runs[status.value]))
    yield by_status
    age_s = _number(runs.get("oldest_queued_run_age_ms", 0)) / 1000
    yield _gauge("kheish_oldest_queued_run_age_seconds", "0 when no run is queued.", age_s)
    yield _gauge(
        "kheish_deepest_session_queue",
        "Runs queued in the session with the most.",
        _number(runs["max_session_queue_depth"]),
    )
    approvals, questions = runs["pending_approval_count"], runs["pending_question_count"]
    yield _gauge("kheish_pending_approvals", "Approvals people have not given or refused yet.", _number(approvals))
    yield _gauge("kheish_pending_questions", "Questions people have not answered yet.", _number(questions))


def _events(events: JsonObject) -> Iterator[Metric]:
    yield _gauge("kheish_event_stream_subscribers", "Open event streams.", _number(events["subscriber_count"]))
    yield _counter(
        "kheish_event_stream_dropped_events",
        "Stored events that slow readers missed.",
        _number(events["stream_lagged_event_count"]),
    )
    yield _counter("kheish_event_stream_gaps", "Gaps readers were told of.", _number(events["replay_gap_count"]))
    yield _gauge(
        "kheish_event_window_events", "Events a reader can still replay.", _number(events["retained_event_count"])
    )
    yield _counter(
        "kheish_event_window_evicted_events", "Events that left the window.", _number(events["evicted_event_count"])
    )


def _store(writes: WriteStatistics) -> Iterator[Metric]:
    yield _histogram("kheish_commit_duration_seconds", "Durable transactions.", writes.commit_seconds)
    yield _histogram("kheish_commit_units", "Writes that shared a transaction.", writes.commit_units)
    yield _counter("kheish_write_failures", "Writes the store refused.", writes.failed_units)


def _recovery(recovered: RecoveryCounts) -> Iterator[Metric]:
    yield _counter(
        "kheish_recovery_killed_processes",
        "Processes of an earlier daemon's tools that had survived it.",
        recovered.killed_processes,
    )
    yield _counter(
        "kheish_recovery_failed_sessions", "Sessions that could not go on at the start.", recovered.failed_sessions
    )


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(name, documentation, value=float(value))


def _counter(name: str, documentation: str, value: float) -> Metric:
    return CounterMetricFamily(name, documentation, value=float(value))


def _histogram(name: str, documentation: str, spread: Spread) -> Metric:
    buckets: list[tuple[str, float]] = []
    counted = 0
    for bound, count in zip((*spread.bounds, float("inf")), spread.counts, strict=True):
        counted += count
        buckets.append(("+Inf" if bound == float("inf") else str(float(bound)), counted))
    return HistogramMetricFamily(name, documentation, buckets=buckets, sum_value=spread.total)


def _number(value: JsonValue) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
