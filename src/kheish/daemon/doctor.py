"""doctor: what the daemon tells about itself, as checks with plain-language actions. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from kheish.cli.output import JsonObject, JsonValue
from kheish.core.values import value_class

INFO, WARNING, ERROR = "info", "warning", "error"
_SHOWN_BLOCKS = ("status", "ready", "process_id", "control_plane", "storage", "provider_readiness", "events", "runs")


@value_class(frozen=True, kw_only=True, slots=True)
class Facts:
    """What was asked and answered. An error is a line for people; None where all went well."""

    status: JsonObject | None = None
    status_error: str | None = None
    ready_error: str | None = None
    events_error: str | None = None
    origin: str | None = None
    """A web page's origin to ask about."""
    origin_allowed: bool = False


@dataclass(slots=True)
class _Checks:
    rows: list[JsonValue] = field(default_factory=list)
    warnings: list[JsonValue] = field(default_factory=list)
    errors: list[JsonValue] = field(default_factory=list)

    def add(self, name: str, code: str, message: str, *, severity: str = INFO, action: JsonValue = None) -> None:
        row: JsonObject = {
            "name": name,
            "code": code,
            "ok": severity == INFO,
            "severity": severity,
            "message": message,
        }
        if action is not None:
            row["action"] = action
        self.rows.append(row)
        if severity == WARNING:
            self.warnings.append(message)
        if severity == ERROR:
            self.errors.append(message)


def examine(facts: Facts) -> JsonObject:
    """The view `doctor` prints; `ok` is false when a check has the severity error."""
    checks = _Checks()
    _reachable(checks, facts)
    if facts.status is not None:
        _control_plane(checks, _block(facts.status, "control_plane"))
        _routes(checks, _block(facts.status, "provider_readiness"))
        _storage(checks, _block(facts.status, "storage"))
        _events(checks, _block(facts.status, "events"))
        _health(checks, facts.status)
    if facts.origin is not None:
        _origin(checks, facts.origin, allowed=facts.origin_allowed)
    runs = {} if facts.status is None else _block(facts.status, "runs")
    sessions = {} if facts.status is None else _block(facts.status, "sessions")
    view: JsonObject = {
        "ok": not checks.errors,
        "session_count": sessions.get("total", 0),
        "pending_approvals": runs.get("pending_approval_count", 0),
        "pending_questions": runs.get("pending_question_count", 0),
        "readyz_reachable": facts.ready_error is None,
        "events_stream_reachable": facts.events_error is None,
        "checks": checks.rows,
        "warnings": checks.warnings,
        "errors": checks.errors,
    }
    if facts.status is not None:
        view["status"] = {name: facts.status[name] for name in _SHOWN_BLOCKS if name in facts.status}
    if facts.status_error is not None:
        view["status_error"] = facts.status_error
    return view


def plain(view: JsonObject) -> list[str]:
    """The same for a person: one line per check, what is worst last, with what to do below it."""
    rows = sorted(_rows(view, "checks"), key=lambda row: (INFO, WARNING, ERROR).index(str(row["severity"])))
    lines = []
    for row in rows:
        mark = "ok" if row["ok"] else str(row["severity"])
        lines.append(f"{mark:<8} {row['message']}")
        if not row["ok"] and row.get("action") is not None:
            lines.append(f"{'':<8} > {row['action']}")
    errors, warnings = (len(listed) if isinstance(listed := view[name], list) else 0 for name in ("errors", "warnings"))
    return [*lines, "", f"{errors} errors, {warnings} warnings"]


def _reachable(checks: _Checks, facts: Facts) -> None:
    start = "Start it with `kheish-daemon serve`, or name another one with --base-url and --token-file."
    for name, code, what, error in (
        ("daemon_status", "status", "the daemon's status", facts.status_error),
        ("readyz", "readyz", "readiness", facts.ready_error),
        ("events_sse", "events", "the event stream", facts.events_error),
    ):
        if error is None:
            checks.add(name, f"{code}_reachable", f"{what} answers")
        else:
            checks.add(name, f"{code}_unreachable", f"{what}: {error}", severity=ERROR, action=start)


def _control_plane(checks: _Checks, block: JsonObject) -> None:
    if block.get("externally_exposed_without_auth"):
        message = "other machines can use the daemon without a token"
        checks.add("control_plane_auth", "exposed", message, severity=ERROR, action="Give it --http-admin-token-file.")
    elif block.get("auth_duplicate_token") or block.get("auth_token_file_error_count"):
        message = "a token file is unreadable or both tokens are the same"
        checks.add("control_plane_auth", "tokens_unusable", message, severity=ERROR, action="Repair the token files.")
    elif block.get("auth_enabled"):
        checks.add("control_plane_auth", "auth_on", "tokens are asked for")
    else:
        checks.add("control_plane_auth", "auth_off", "no token is asked for; only this machine can reach the daemon")


def _routes(checks: _Checks, block: JsonObject) -> None:
    if not block.get("route_count"):
        message = "no model route is configured"
        checks.add("routes", "route_inventory_empty", message, severity=WARNING, action="Start it with --routes-file.")
    else:
        checks.add("routes", "routes_configured", f"{block['route_count']} routes are configured")
    for row in _rows(block, "routes"):
        if row.get("state") in (WARNING, ERROR):
            # A route that nobody uses by default breaks less than the default one.
            severity = ERROR if row.get("state") == ERROR and row.get("active") else WARNING
            message = f"route {row['route_id']}: {row['message']}"
            checks.add("provider_readiness", str(row["code"]), message, severity=severity, action=row.get("action"))
    if block.get("active_route_ready"):
        checks.add("provider_readiness", "active_route_ready", "the default route can be used")


def _storage(checks: _Checks, block: JsonObject) -> None:
    for probe in _rows(block, "probes"):
        if not probe.get("writable"):
            message = f"{probe['name']} is not writable: {probe['message']}"
            checks.add("storage", str(probe["code"]), message, severity=ERROR, action=probe.get("action"))
    if block.get("ok"):
        checks.add("storage", "storage_ok", "state and workspace can be written")
    lock = _block(block, "state_root_lock")
    if lock.get("held"):
        checks.add("state_root_lock", "lock_held", "the daemon owns its state root")
    else:
        action = "Stop every daemon on this state root and start one."
        checks.add("state_root_lock", "lock_lost", "the state root is not locked", severity=ERROR, action=action)


def _events(checks: _Checks, block: JsonObject) -> None:
    kept, missed = block.get("retained_event_count"), block.get("stream_lagged_event_count")
    if not missed:
        text = f"{kept} events are kept for readers that reconnect; nobody has missed any"
        checks.add("events_status", "events_complete", text)
        return
    action = "Let them reconnect with the last id they saw; ask for one session or run to get less."
    text = f"slow readers have missed {missed} events"
    checks.add("events_status", "events_lagged", text, severity=WARNING, action=action)


def _health(checks: _Checks, status: JsonObject) -> None:
    for warning in _rows(_block(status, "health"), "warnings"):
        severity = str(warning.get("severity"))
        if severity in (WARNING, ERROR):
            code = str(warning["code"])
            checks.add(code, code, str(warning["message"]), severity=severity, action=warning.get("action"))


def _origin(checks: _Checks, origin: str, *, allowed: bool) -> None:
    if allowed:
        checks.add("control_plane_cors", "origin_allowed", f"pages of {origin} may call the daemon")
        return
    action = "Serve the page from localhost, or put a reverse proxy in front of both."
    message = f"pages of {origin} may not call the daemon"
    checks.add("control_plane_cors", "origin_refused", message, severity=ERROR, action=action)


def _block(of: JsonObject, name: str) -> JsonObject:
    found = of.get(name)
    return found if isinstance(found, dict) else {}


def _rows(of: JsonObject, name: str) -> list[JsonObject]:
    found = of.get(name)
    return [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []
