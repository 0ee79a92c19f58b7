"""The status snapshot: everything an operator looks at first."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable
from typing import Protocol, TypeVar, cast

from kheish.auth.control_plane import ControlPlane
from kheish.core.clock import Clock
from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.core.problems import StoreUnreadable
from kheish.daemon.probes import write_probe
from kheish.daemon.settings import Settings
from kheish.daemon.storage_status import closed_sessions, store_health, store_probe
from kheish.daemon.storage_status import warnings as storage_warnings
from kheish.daemon.supervisor import Supervisor
from kheish.engine.engine import Engine
from kheish.engine.journal import DatabaseJournal
from kheish.external_actions.trail import Trail
from kheish.providers.capabilities import MATRIX_VERSION
from kheish.providers.routes import Readiness, ReadinessState, Route
from kheish.runs.service import RunLedger
from kheish.runtime.service import Runtime
from kheish.sessions.service import Sessions
from kheish.store.database import Database
from kheish.store.feed import Feed
from kheish.store.lock import MECHANISM, StateLock

T = TypeVar("T")

_PROBE_EVERY_MS = 10_000
"""A probe syncs a file; a dashboard that polls must not turn that into load."""

OVERSIZED_BYTES = 100 * 1024 * 1024
"""Of journal entries: a session above this is named."""
_NAMED_SESSIONS = 20

CAPABILITIES: JsonObject = {
    "api_revision": 3,
    "route_capability_matrix_version": MATRIX_VERSION,
    "session_run_idempotency": True,
    "session_events": True,
    "restart_restore": True,
    "mid_run_resume": True,
    "live_events": True,
    "output_deltas": True,
    "approvals": True,
    "approval_list": True,
    "questions": True,
    "cursor_pagination": True,
    "paginated_lists": True,
    "problem_details": True,
    "domain_errors": True,
    "sse_replay": True,
    "typed_sse_heartbeat": True,
}


class BoundAddress(Protocol):
    """Where the daemon really listens."""

    @property
    def bind_addr(self) -> str: ...
    @property
    def base_url(self) -> str: ...


class StatusBoard:
    """Collects the snapshot from the parts of the daemon."""

    def __init__(
        self,
        *,
        settings: Settings,
        control_plane: ControlPlane,
        database: Database,
        journal: DatabaseJournal,
        trail: Trail,
        feed: Feed,
        lock: StateLock,
        engine: Engine,
        ledger: RunLedger,
        sessions: Sessions,
        runtime: Runtime,
        supervisor: Supervisor,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._control_plane = control_plane
        self._database = database
        self._journal = journal
        self._trail = trail
        self._feed = feed
        self._lock = lock
        self._engine = engine
        self._ledger = ledger
        self._sessions = sessions
        self._runtime = runtime
        self._supervisor = supervisor
        self._clock = clock
        self._probed: tuple[int, list[JsonObject], JsonObject | None] | None = None
        self.draining = False
        """Set by the shutdown before anything else happens."""
        self.bind_addr = f"{settings.bind_host}:{settings.bind_port}"

    @property
    def base_url(self) -> str:
        return f"http://{self.bind_addr}"

    async def snapshot(self) -> dict[str, object]:
        """`GET /v1/status`."""
        started = time.monotonic()
        now = self._clock.now_ms()
        runs = await _unless_unreadable(self._runs(now))
        total = await _unless_unreadable(self._sessions.count())
        storage = await self._storage(now)
        readiness = self._readiness()
        events = self._feed.status()
        readable = runs is not None and total is not None and storage["session_storage"] is not None
        warnings = [
            *storage_warnings(storage, readable=readable),
            *_warnings(runs or {}, readiness, events),
            *self._control_plane.warnings(),
            *self._trail.warnings(),
        ]
        statistics = self._database.statistics
        return {
            "snapshot_at_ms": now,
            "process_id": os.getpid(),
            "status": "draining" if self.draining else "ready",
            "ready": not self.draining,
            "capabilities": CAPABILITIES,
            "runtime": self._runtime.snapshot(),
            "control_plane": {
                "bind_addr": self.bind_addr,
                "base_url": self.base_url,
                **self._control_plane.status(),
            },
            "storage": storage,
            "provider_readiness": readiness,
            "health": {
                "generated_at_ms": now,
                "snapshot_duration_ms": round((time.monotonic() - started) * 1000),
                **_health(readiness, warnings),
            },
            "events": events,
            "sessions": {
                "total": total,
                "active": self._engine.active_sessions,
                "waiting_for_store": self._engine.held_sessions,
            },
            "runs": runs,
            "workers": self._supervisor.status(),
            "store": {
                "commits": statistics.commits,
                "units": statistics.units,
                "failed_units": statistics.failed_units,
            },
        }

    async def _runs(self, now_ms: int) -> JsonObject:
        return await self._ledger.status(
            now_ms=now_ms, queued_lag_ms=self._settings.queued_run_lag_ms, stale_ms=self._settings.stale_run_ms
        )

    async def _storage(self, now_ms: int) -> JsonObject:
        statistics = self._database.statistics
        if self._probed is None or now_ms - self._probed[0] >= _PROBE_EVERY_MS:
            probes = [
                await write_probe("state_root", self._settings.state_root),
                await write_probe("workspace_root", self._settings.workspace_root),
            ]
            self._probed = (now_ms, probes, await _unless_unreadable(self._session_storage()))
        checked_at_ms, probes, session_storage = self._probed
        probes = [*probes, store_probe(self._settings.state_root / "kheish.db", statistics)]
        return {
            "checked_at_ms": checked_at_ms,
            "ok": all(probe["writable"] for probe in probes),
            **store_health(statistics),
            **closed_sessions(self._engine.quarantine),
            "probes": cast("list[JsonValue]", probes),
            "state_root_lock": {"path": str(self._lock.path), "held": self._lock.held, "mechanism": MECHANISM},
            "session_storage": session_storage,
        }

    async def _session_storage(self) -> JsonObject:
        sizes = await self._journal.sizes(threshold=OVERSIZED_BYTES, limit=_NAMED_SESSIONS)
        named: list[JsonValue] = [session_id for session_id, size in sizes.largest if size > OVERSIZED_BYTES]
        block: JsonObject = {
            "session_count": await self._sessions.count(),
            "total_bytes": sizes.total_bytes,
            "largest_session_bytes": sizes.largest[0][1] if sizes.largest else 0,
            "oversized_threshold_bytes": OVERSIZED_BYTES,
            "oversized_session_count": sizes.oversized,
        }
        if sizes.largest:
            block["largest_session_id"] = sizes.largest[0][0]
        if named:
            block["oversized_session_ids"] = named
        return block

    def _readiness(self) -> JsonObject:
        inventory = self._runtime.routes()
        states = [(route, inventory.readiness(route)) for route in inventory.routes]
        counted = {state: sum(readiness.state is state for _, readiness in states) for state in ReadinessState}
        active = next((ready for route, ready in states if route.route_id == inventory.default_route), None)
        return {
            "active_route_ready": active is not None and active.state is not ReadinessState.ERROR,
            "route_count": len(states),
            "ready_route_count": counted[ReadinessState.OK],
            "warning_route_count": counted[ReadinessState.WARNING],
            "error_route_count": counted[ReadinessState.ERROR],
            "routes": [
                _route_row(route, readiness, active=route.route_id == inventory.default_route)
                for route, readiness in states
            ],
        }


def _route_row(route: Route, readiness: Readiness, *, active: bool) -> JsonObject:
    row: JsonObject = {
        "route_id": route.route_id,
        "provider": route.driver.value,
        "model": route.default_model,
        "active": active,
        "capabilities": route.capabilities.to_wire(),
        "state": readiness.state.value,
        "code": readiness.code,
        "message": readiness.message,
        "price_source": route.terms.price_source(route.default_model).value,
    }
    if route.auth_ref is not None:
        row["auth_ref"] = route.auth_ref
    if readiness.action is not None:
        row["action"] = readiness.action
    return row


async def _unless_unreadable(block: Awaitable[T]) -> T | None:
    """A status that cannot be read in full must still be given: None stands for what is missing."""
    try:
        return await block
    except StoreUnreadable:
        return None


def _health(readiness: JsonObject, warnings: list[JsonObject]) -> JsonObject:
    return {
        "ok": not any(warning["severity"] == "error" for warning in warnings),
        "route_error_count": readiness["error_route_count"],
        "route_warning_count": readiness["warning_route_count"],
        "warnings": [*warnings],
    }


def _warnings(runs: JsonObject, readiness: JsonObject, events: JsonObject) -> list[JsonObject]:
    found: list[JsonObject] = []
    lag, limit = runs.get("oldest_queued_run_age_ms"), runs.get("queued_run_lag_threshold_ms")
    if isinstance(lag, int) and isinstance(limit, int) and lag >= limit:
        text = f"a run has been queued for {lag} ms"
        found.append(_warning("warning", "queued_run_lag", text, None, runs.get("oldest_queued_run_id")))
    if runs.get("stale_non_terminal_run_count"):
        text = f"{runs['stale_non_terminal_run_count']} unfinished runs have not moved for a long time"
        found.append(_warning("warning", "stale_non_terminal_runs", text, "Look at stale_non_terminal_run_ids."))
    if not readiness["active_route_ready"]:
        text = "the default route cannot be used"
        found.append(_warning("error", "provider_active_route_not_ready", text, "Look at provider_readiness.routes."))
    if events["stream_lagged_event_count"]:
        text = f"slow readers missed {events['stream_lagged_event_count']} events"
        found.append(_warning("warning", "event_stream_lagged", text, None))
    return found


def _warning(severity: str, code: str, message: str, action: JsonValue, related_id: JsonValue = None) -> JsonObject:
    warning: JsonObject = {"severity": severity, "code": code, "message": message}
    if related_id is not None:
        warning["related_id"] = related_id
    if action is not None:
        warning["action"] = action
    return warning
