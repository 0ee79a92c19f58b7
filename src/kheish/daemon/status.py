"""The status snapshot: everything an operator looks at first."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable
from typing import Protocol, TypeVar, cast

from kheish.auth.control_plane import ControlPlane
from kheish.auth.secret_store import SecretStore
from kheish.core.clock import Clock
from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.core.problems import StoreUnreadable
from kheish.daemon import health
from kheish.daemon.probes import write_probe
from kheish.daemon.route_source import RouteSource
from kheish.daemon.settings import Settings
from kheish.daemon.storage_status import closed_sessions, store_health, store_probe
from kheish.daemon.storage_status import warnings as storage_warnings
from kheish.daemon.supervisor import Supervisor
from kheish.engine.engine import Engine
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
        trail: Trail,
        secrets: SecretStore,
        routes: RouteSource,
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
        self._trail = trail
        self._secrets = secrets
        self._routes = routes
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

    @property
    def has_routes(self) -> bool:
        return bool(self._runtime.routes().routes)

    async def snapshot(self) -> dict[str, object]:
        """`GET /v1/status`."""
        started = time.monotonic()
        now = self._clock.now_ms()
        runs = await _unless_unreadable(self._runs(now))
        total = await _unless_unreadable(self._sessions.count())
        storage = await self._storage(now)
        readiness = self._readiness()
        events = self._feed.status()
        workers = self._supervisor.status()
        readable = None not in (runs, total, storage["session_storage"])
        warnings = [
            *storage_warnings(storage, readable=readable),
            *health.of_runs(runs or {}),
            *health.of_routes(readiness),
            *health.of_events(events),
            *health.of_workers(workers),
            *self._lasting_warnings(),
        ]
        statistics = self._database.statistics
        return {
            "snapshot_at_ms": now,
            "process_id": os.getpid(),
            "status": "draining" if self.draining else "ready",
            "ready": not self.draining,
            "capabilities": CAPABILITIES,
            "runtime": self._runtime.snapshot(),
            "control_plane": {"bind_addr": self.bind_addr, "base_url": self.base_url, **self._control_plane.status()},
            "storage": storage,
            "provider_readiness": readiness,
            "route_inventory": await asyncio.to_thread(self._routes.status),
            "health": {
                "generated_at_ms": now,
                "snapshot_duration_ms": round((time.monotonic() - started) * 1000),
                **health.health(readiness, warnings),
            },
            "events": events,
            "sessions": {
                "total": total,
                "active": self._engine.active_sessions,
                "waiting_for_store": self._engine.held_sessions,
            },
            "runs": runs,
            "workers": workers,
            "store": {
                "commits": statistics.commits,
                "units": statistics.units,
                "failed_units": statistics.failed_units,
            },
        }

    def _lasting_warnings(self) -> list[JsonObject]:
        """What follows from how the daemon was set up."""
        parts = (self._control_plane, self._secrets, self._trail)
        return [*health.of_setup(self._settings), *(warning for part in parts for warning in part.warnings())]

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
        sizes = await self._sessions.sizes(threshold=OVERSIZED_BYTES, limit=_NAMED_SESSIONS)
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
        "auth_kind": route.auth_kind,
        "model_support": route.model_support.value,
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
