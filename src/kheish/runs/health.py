"""How the runs of a daemon are doing: counts, ages, what has been quiet for too long. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kheish.core.jsonvalue import JsonObject
from kheish.core.values import value_class
from kheish.engine.entries import RunStatus

_SAMPLED_IDS = 5


@value_class(frozen=True, kw_only=True, slots=True)
class LiveRun:
    """What the status block needs of an unfinished run."""

    run_id: str
    status: str
    submitted_at_ms: int
    updated_at_ms: int
    approvals: int
    questions: int


def block(
    live: Sequence[LiveRun],
    *,
    counts: Mapping[str, int],
    deepest_queue: int,
    now_ms: int,
    queued_lag_ms: int,
    stale_ms: int,
) -> JsonObject:
    """The `runs` block; ``live`` is ordered by submission, oldest first."""
    stale = [run.run_id for run in live if now_ms - run.updated_at_ms >= stale_ms]
    found: JsonObject = {
        "total": sum(counts.values()),
        **{status.value: counts.get(status.value, 0) for status in RunStatus},
        "pending_approval_count": sum(run.approvals for run in live),
        "pending_question_count": sum(run.questions for run in live),
        "max_session_queue_depth": deepest_queue,
        "queued_run_lag_threshold_ms": queued_lag_ms,
        "stale_non_terminal_run_threshold_ms": stale_ms,
        "stale_non_terminal_run_count": len(stale),
    }
    if stale:
        found["stale_non_terminal_run_ids"] = [*stale[:_SAMPLED_IDS]]
    queued = next((run for run in live if run.status == RunStatus.QUEUED), None)
    if queued is not None:
        found["oldest_queued_run_id"] = queued.run_id
        found["oldest_queued_run_age_ms"] = max(0, now_ms - queued.submitted_at_ms)
    if live:
        idle = min(live, key=lambda run: run.updated_at_ms)
        found["oldest_non_terminal_run_id"] = live[0].run_id
        found["oldest_non_terminal_run_age_ms"] = max(0, now_ms - live[0].submitted_at_ms)
        found["oldest_idle_non_terminal_run_id"] = idle.run_id
        found["oldest_non_terminal_run_idle_ms"] = max(0, now_ms - idle.updated_at_ms)
    return found
