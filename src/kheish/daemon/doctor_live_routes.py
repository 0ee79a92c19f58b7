"""doctor routes: the routes of a running daemon, what refers to them, and whether each one answers."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator

from kheish.cli.daemon_client import DaemonClient
from kheish.cli.failures import HttpFailure
from kheish.cli.output import JsonObject, JsonValue
from kheish.daemon.doctor_routes import diagnostic, view

CANARY_OK = "KHEISH_ROUTE_CANARY_OK"
_POLL_S = 0.25
_ENDED = frozenset({"completed", "failed", "interrupted", "cancelled"})
_PAGE = 100


class LiveRoutes:
    """Asks one daemon."""

    def __init__(self, client: DaemonClient, *, only: str | None = None) -> None:
        """``only`` looks at one route."""
        self._client = client
        self._status = _object(client.call("GET", "status"))
        self._runtime = _object(client.call("GET", "runtime"))
        self._rows = _objects(_object(self._status["provider_readiness"])["routes"])
        self._only = only

    def examine(self, *, auth: bool, references: bool, canary_ms: int | None) -> JsonObject:
        """The view of what was asked for; ``canary_ms`` is how long each canary may take, None for no canary."""
        known = {str(row["route_id"]) for row in self._rows}
        found = list(self._inventory(known))
        found += self._drift()
        if auth:
            found += self._auth()
        if references:
            found += self._references(known)
        canaries = None if canary_ms is None else [self._canary(route, canary_ms) for route in self._chosen(known)]
        for row in canaries or ():
            if row["status"] != "passed":
                message = f"the canary of the route {row['route_id']} {row['status']}: {row['message']}"
                found.append(diagnostic("error", f"canary_{row['status']}", message, str(row["route_id"])))
        return view(
            found,
            source="runtime",
            default=self._runtime.get("route_id"),
            routes=[_shown(row) for row in self._rows if self._only in (None, row["route_id"])],
            auth_checked=auth,
            reference_checked=references,
            canaries=canaries,
        )

    def _chosen(self, known: set[str]) -> list[str]:
        return sorted(known if self._only is None else known & {self._only})

    def _inventory(self, known: set[str]) -> Iterator[JsonObject]:
        if not known:
            message = (
                "The daemon has no route. Add one with `kheish-daemon runtime set-route`, or start it with a file."
            )
            yield diagnostic("warning", "route_inventory_empty", message)
        elif self._runtime.get("route_id") is None:
            yield diagnostic("error", "default_route_unset", "No route is the default. Use `runtime set-model`.")
        if self._only is not None and self._only not in known:
            yield diagnostic("error", "unknown_route", f"The daemon has no route {self._only!r}.", self._only)

    def _drift(self) -> list[JsonObject]:
        inventory = _object(self._status.get("route_inventory") or {})
        path = inventory.get("routes_file_path")
        if inventory.get("drift") == "changed":
            message = f"{path} is not what was loaded ({inventory.get('drift_hashes')}). Send SIGHUP or restart."
            return [diagnostic("warning", "route_file_drift", message)]
        if inventory.get("drift") == "unreadable":
            return [diagnostic("warning", "route_file_unreadable", f"{path} cannot be read any more.")]
        return []

    def _auth(self) -> list[JsonObject]:
        found = []
        for row in self._rows:
            if row["state"] != "ok" and self._only in (None, row["route_id"]):
                text = f"{row['message']} {row.get('action') or ''}".strip()
                found.append(diagnostic(str(row["state"]), str(row["code"]), text, str(row["route_id"])))
        return found

    def _references(self, known: set[str]) -> Iterator[JsonObject]:
        for session in self._paged("sessions"):
            policy = _object(session.get("route_policy") or {})
            route = policy.get("provider")
            if route is not None and route not in known:
                message = f"The session {session['session_id']!r} wants the route {route!r}, which is gone."
                yield diagnostic("warning", "stale_session_route_policy", message, str(route))
        # Live runs come first; those that ended are pinned to nothing any more.
        live = self._client.call("GET", "runs", params={"priority_active": True, "limit": _PAGE})
        for run in _objects(live):
            route = _object(run["request"]).get("provider")
            if run["status"] not in _ENDED and route is not None and route not in known:
                message = f"The run {run['run_id']} is pinned to the route {route!r}, which is gone: it will fail."
                yield diagnostic("warning", "stale_run_route", message, str(route))

    def _paged(self, kind: str) -> Iterator[JsonObject]:
        cursor: str | None = None
        while True:
            page = _object(self._client.call("GET", kind, params={"page": True, "limit": _PAGE, "cursor": cursor}))
            yield from _objects(page["items"])
            following = _object(page["pagination"]).get("next_cursor")
            if not isinstance(following, str):
                return
            cursor = following

    def _canary(self, route_id: str, timeout_ms: int) -> JsonObject:
        """One tiny run on a session of its own; the default route is not touched."""
        session_id = f"doctor-canary-{secrets.token_hex(6)}"
        row: JsonObject = {"route_id": route_id, "session_id": session_id, "status": "failed", "message": ""}
        self._client.call("POST", "sessions", body={"session_id": session_id})
        try:
            run = _object(self._client.call("POST", "sessions", session_id, "runs", body=_question(route_id)))
            row["run_id"] = run["run_id"]
            return {**row, **self._outcome(str(run["run_id"]), timeout_ms)}
        except HttpFailure as refusal:
            return {**row, "message": refusal.message}
        finally:
            self._client.call("POST", "sessions", session_id, "end", body={"reason": "route canary"})

    def _outcome(self, run_id: str, timeout_ms: int) -> JsonObject:
        deadline = time.monotonic() + timeout_ms / 1000
        while True:
            run = _object(self._client.call("GET", "runs", run_id))
            if run["status"] in _ENDED:
                said = " ".join(str(output.get("content")) for output in _objects(run.get("outputs") or []))
                if run["status"] == "completed" and CANARY_OK in said:
                    return {"status": "passed", "message": "the model answered as asked"}
                error = str(run.get("error") or "the model answered something else than it was asked for")
                return {"status": "failed", "message": error}
            if time.monotonic() >= deadline:
                return {"status": "timeout", "message": f"no end within {timeout_ms} ms"}
            time.sleep(_POLL_S)


def _question(route_id: str) -> JsonObject:
    return {
        "content": f"Answer with exactly this text and nothing else: {CANARY_OK}",
        "provider": route_id,
        "source_plugin": "doctor",
        "source_kind": "route_canary",
        "actor_id": "doctor",
        "generation": {"tool_choice": {"type": "none"}},
    }


def _shown(row: JsonObject) -> JsonObject:
    kept = ("route_id", "provider", "model", "auth_ref", "auth_kind", "model_support", "capabilities")
    return {name: row.get(name) for name in kept}


def _object(value: JsonValue) -> JsonObject:
    assert isinstance(value, dict), "the daemon answers with objects here"
    return value


def _objects(value: JsonValue) -> list[JsonObject]:
    assert isinstance(value, list), "the daemon answers with a list here"
    return [_object(item) for item in value]
