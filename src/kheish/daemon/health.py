"""What of the status an operator should know or act on: severity, code, words and a way out. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.daemon.settings import Settings

INLINE_KEY = "inline_key"
"""The readiness code of a route whose key stands in its configuration."""


def health(readiness: JsonObject, warnings: Sequence[JsonObject]) -> JsonObject:
    """The `health` block; what is only information never makes a daemon unwell."""
    return {
        "ok": not any(warning["severity"] == "error" for warning in warnings),
        "route_error_count": readiness["error_route_count"],
        "route_warning_count": readiness["warning_route_count"],
        "warnings": [*warnings],
    }


def of_runs(runs: JsonObject) -> list[JsonObject]:
    """Runs that wait or stand still for too long."""
    found: list[JsonObject] = []
    lag, limit = runs.get("oldest_queued_run_age_ms"), runs.get("queued_run_lag_threshold_ms")
    if isinstance(lag, int) and isinstance(limit, int) and lag >= limit:
        action = "Look at its session: a run before it may wait for a person (`approvals list`, `questions list`)."
        found.append(
            _warning("queued_run_lag", f"a run has been queued for {lag} ms", action, runs.get("oldest_queued_run_id"))
        )
    if count := runs.get("stale_non_terminal_run_count"):
        action = "Look at runs.stale_non_terminal_run_ids; answer what they wait for, or `runs cancel` them."
        text = f"unfinished runs that have not moved for a long time: {count}"
        found.append(_warning("stale_non_terminal_runs", text, action))
    return found


def of_routes(readiness: JsonObject) -> list[JsonObject]:
    """A default route that cannot be used, and keys that lie in files."""
    found: list[JsonObject] = []
    if not readiness["active_route_ready"]:
        text, action = "the default route cannot be used", "Do what provider_readiness.routes says of it."
        found.append(_warning("provider_active_route_not_ready", text, action, severity="error"))
    rows = readiness["routes"]
    assert isinstance(rows, list)
    for row in rows:
        assert isinstance(row, dict)
        if row["code"] == INLINE_KEY:
            text = f"the key of the route {row['route_id']} stands in its configuration"
            found.append(_warning("provider_inline_key", text, row.get("action"), row["route_id"], severity="info"))
    return found


def of_events(events: JsonObject) -> list[JsonObject]:
    """Readers that did not keep up."""
    if not events["stream_lagged_event_count"]:
        return []
    text = f"slow readers missed events: {events['stream_lagged_event_count']}"
    action = "They go on by reconnecting with the last id they saw; ask for one session or run to get less."
    return [_warning("event_stream_lagged", text, action)]


def of_workers(workers: Sequence[JsonObject]) -> list[JsonObject]:
    """Background work that failed and was started again."""
    return [
        _warning(
            "worker_failed",
            f"the background work {worker['name']!r} failed and was started again ({worker['restarts']} times)",
            "Look at the daemon's log for worker.failed and report it.",
            worker["name"],
        )
        for worker in workers
        if worker["restarts"]
    ]


def of_setup(settings: Settings) -> list[JsonObject]:
    """What the operator chose and may not have meant."""
    found: list[JsonObject] = []
    if settings.max_turns == 0:
        text = "no run is ever stopped for the number of its model calls"
        found.append(_warning("no_turn_ceiling", text, "Set KHEISH_AGENT_MAX_TURNS, or leave it out for 500."))
    if settings.state_root.resolve().is_relative_to(settings.workspace_root):
        text = "the state root lies in the workspace: file tools cannot reach it, but a shell command can"
        action = "Use separate directories for --state-root and --workspace-root."
        found.append(_warning("state_root_inside_workspace", text, action, str(settings.state_root)))
    return found


def _warning(
    code: str, message: str, action: JsonValue, related_id: JsonValue = None, *, severity: str = "warning"
) -> JsonObject:
    warning: JsonObject = {"severity": severity, "code": code, "message": message}
    if related_id is not None:
        warning["related_id"] = related_id
    if action is not None:
        warning["action"] = action
    return warning
