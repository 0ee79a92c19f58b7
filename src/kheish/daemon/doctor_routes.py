"""doctor routes --routes-file: what a daemon would say of a routes file, without starting one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.providers.routes import Readiness, ReadinessState, Route
from kheish.providers.routes_file import load_routes
from kheish.providers.tables import RoutesError

_INLINE = "inline_key"


def lint(path: str, environ: Mapping[str, str], *, default_route: str | None = None) -> JsonObject:
    """The view of a file: its routes, and what is wrong or could be better; never a key."""
    try:
        inventory = load_routes(Path(path), environ, default_route=default_route)
    except RoutesError as problem:
        return _view([_diagnostic("error", "route_file_invalid", problem.detail)], default=None, routes=[])
    diagnostics = [found for route in inventory.routes for found in _examined(route)]
    return _view(diagnostics, default=inventory.default_route, routes=[_row(route) for route in inventory.routes])


def _examined(route: Route) -> list[JsonObject]:
    if route.auth_ref is not None:
        message = f"it takes its key from the secret {route.auth_ref!r}, which only a daemon or --offline can look up"
        return [_diagnostic("info", "auth_ref_not_checked", message, route.route_id)]
    readiness: Readiness = route.readiness()
    if readiness.state is ReadinessState.ERROR:
        # A daemon starts with it; the route is refused when it is used.
        return [_diagnostic("warning", readiness.code, _with_action(readiness), route.route_id)]
    if readiness.code == _INLINE:
        return [_diagnostic("warning", "inline_api_key", _with_action(readiness), route.route_id)]
    return []


def _with_action(readiness: Readiness) -> str:
    return readiness.message if readiness.action is None else f"{readiness.message} {readiness.action}"


def _row(route: Route) -> JsonObject:
    kind = "none"
    if route.auth_ref is not None:
        kind = "auth_ref"
    elif route.api_key is not None:
        kind = "inline" if route.api_key.env is None else "environment"
    return {
        "route_id": route.route_id,
        "provider": route.driver.value,
        "model": route.default_model,
        "auth_ref": route.auth_ref,
        "auth_kind": kind,
        "model_support": route.model_support.value,
        "capabilities": route.capabilities.to_wire(),
    }


def _diagnostic(severity: str, code: str, message: str, route_id: str | None = None) -> JsonObject:
    found: JsonObject = {"severity": severity, "code": code, "message": message}
    return found if route_id is None else {**found, "route_id": route_id}


def _view(diagnostics: list[JsonObject], *, default: str | None, routes: list[JsonValue]) -> JsonObject:
    def messages(severity: str) -> list[JsonValue]:
        return [found["message"] for found in diagnostics if found["severity"] == severity]

    return {
        "ok": not messages("error"),
        "source": "file",
        "default_route": default,
        "route_count": len(routes),
        "auth_checked": False,
        "reference_checked": False,
        "canary_checked": False,
        "routes": routes,
        "canaries": [],
        "diagnostics": list(diagnostics),
        "warnings": messages("warning"),
        "errors": messages("error"),
    }
