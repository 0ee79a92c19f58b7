"""doctor routes --routes-file: what a daemon would say of a routes file, without starting one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.providers.routes import Readiness, ReadinessState, Route
from kheish.providers.routes_file import load_routes
from kheish.providers.tables import RoutesError

_INLINE = "inline_key"


def lint(
    path: str, environ: Mapping[str, str], *, default_route: str | None = None, check_auth: bool = False
) -> JsonObject:
    """The view of a file: its routes, and what is wrong or could be better; never a key."""
    try:
        inventory = load_routes(Path(path), environ, default_route=default_route)
    except RoutesError as problem:
        return view([diagnostic("error", "route_file_invalid", problem.detail)], source="file", auth_checked=check_auth)
    diagnostics = [found for route in inventory.routes for found in _examined(route, check_auth=check_auth)]
    rows: list[JsonValue] = [_row(route) for route in inventory.routes]
    return view(diagnostics, source="file", default=inventory.default_route, routes=rows, auth_checked=check_auth)


def refused(*, canary: bool) -> JsonObject:
    """The view of a check of a file that only a running daemon can make."""
    what = "--canary" if canary else "--check-references"
    message = f"{what} asks a running daemon: leave --routes-file out"
    return view([diagnostic("error", "route_reference_check_requires_runtime", message)], source="file")


def _examined(route: Route, *, check_auth: bool) -> list[JsonObject]:
    if route.auth_ref is not None:
        message = f"it takes its key from the secret {route.auth_ref!r}, which only a daemon or --offline can look up"
        return [diagnostic("info", "auth_ref_not_checked", message, route.route_id)]
    readiness: Readiness = route.readiness()
    if readiness.state is ReadinessState.ERROR:
        # A daemon starts with it; the route is refused when it is used.
        severity = "error" if check_auth else "warning"
        return [diagnostic(severity, readiness.code, _with_action(readiness), route.route_id)]
    if readiness.code == _INLINE:
        return [diagnostic("warning", "inline_api_key", _with_action(readiness), route.route_id)]
    return []


def _with_action(readiness: Readiness) -> str:
    return readiness.message if readiness.action is None else f"{readiness.message} {readiness.action}"


def _row(route: Route) -> JsonObject:
    return {
        "route_id": route.route_id,
        "provider": route.driver.value,
        "model": route.default_model,
        "auth_ref": route.auth_ref,
        "auth_kind": route.auth_kind,
        "model_support": route.model_support.value,
        "capabilities": route.capabilities.to_wire(),
    }


def diagnostic(severity: str, code: str, message: str, route_id: str | None = None) -> JsonObject:
    found: JsonObject = {"severity": severity, "code": code, "message": message}
    return found if route_id is None else {**found, "route_id": route_id}


def view(
    diagnostics: Sequence[JsonObject],
    *,
    source: str,
    default: JsonValue = None,
    routes: Sequence[JsonValue] = (),
    auth_checked: bool = False,
    reference_checked: bool = False,
    canaries: Sequence[JsonValue] | None = None,
) -> JsonObject:
    """What `doctor routes` prints; `ok` is false when a diagnostic is an error. ``canaries`` None: none was run."""

    def messages(severity: str) -> list[JsonValue]:
        return [found["message"] for found in diagnostics if found["severity"] == severity]

    return {
        "ok": not messages("error"),
        "source": source,
        "default_route": default,
        "route_count": len(routes),
        "auth_checked": auth_checked,
        "reference_checked": reference_checked,
        "canary_checked": canaries is not None,
        "routes": list(routes),
        "canaries": list(canaries or ()),
        "diagnostics": list(diagnostics),
        "warnings": messages("warning"),
        "errors": messages("error"),
    }
