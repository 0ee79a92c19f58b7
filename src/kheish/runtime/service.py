"""Daemon-wide settings that change while it runs: one durable, revisioned store."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from kheish.core.clock import Clock
from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.core.problems import BadRequest, Problem
from kheish.policy.modes import PermissionMode
from kheish.policy.rules import RulePermissions
from kheish.providers.routes import RouteInventory
from kheish.runtime import store
from kheish.runtime.store import Revision
from kheish.store.database import Database, Transaction
from kheish.store.feed import Feed
from kheish.tools.limits import InvalidToolRuntimeLimits, ToolRuntimeLimits

log = structlog.get_logger(__name__)

HISTORY_LIMIT = 100
"""Revisions kept, the current one included."""


class RevisionConflict(Problem):
    """The configuration changed since that revision."""

    domain, code, status = "runtime", "runtime_revision_conflict", 409


@dataclass(frozen=True, kw_only=True, slots=True)
class RuntimeSettings:
    """What one revision says."""

    permission_mode: PermissionMode
    default_route: str | None
    model: str | None
    """The default route's model where it differs from the route's own."""
    tool_limits: ToolRuntimeLimits

    def to_json(self) -> JsonObject:
        return {
            "permission_mode": self.permission_mode.value,
            "default_route": self.default_route,
            "model": self.model,
            "tool_limits": self.tool_limits.to_json(),
        }


class Runtime:
    """Reads are from memory and see whole revisions only; changes are serialised and durable before they apply."""

    def __init__(
        self,
        *,
        database: Database,
        feed: Feed,
        clock: Clock,
        inventory: RouteInventory,
        permissions: RulePermissions,
        tool_names: tuple[str, ...],
        store_path: str,
        restart_policy: str,
    ) -> None:
        self._database = database
        self._feed = feed
        self._clock = clock
        self._configured = inventory
        self._inventory = inventory
        self._permissions = permissions
        self._tool_names = tool_names
        self._store_path = store_path
        self._restart_policy = restart_policy
        self._settings = RuntimeSettings(
            permission_mode=permissions.mode,
            default_route=inventory.default_route,
            model=None,
            tool_limits=ToolRuntimeLimits(),
        )
        self._revision: Revision | None = None
        self._history_len = 0
        self._changing = asyncio.Lock()

    def restore(self, connection: sqlite3.Connection) -> None:
        """Take up the last revision; called at boot, before any work."""
        newest = store.newest(connection)
        if newest is None:
            return
        self._history_len = store.count(connection)
        self._revision = newest
        self._apply(self._restored(newest.settings))

    def routes(self) -> RouteInventory:
        """The routes, with the current default."""
        return self._inventory

    def tool_limits(self) -> ToolRuntimeLimits:
        return self._settings.tool_limits

    def snapshot(self) -> JsonObject:
        """`GET /v1/runtime`."""
        return self._view(self._settings, self._revision, self._history_len)

    async def replace_routes(self, inventory: RouteInventory) -> None:
        """Take up a changed routes file. A default that an operator chose stays as long as it exists.

        Raises:
            StoreUnavailable: the change could not be announced; the old routes are in force.
        """
        async with self._changing:
            before = self._configured
            chosen = self._settings.default_route != before.default_route or self._settings.model is not None
            self._configured = inventory
            settings = (
                self._restored(self._settings.to_json())
                if chosen
                else replace(self._settings, default_route=inventory.default_route)
            )
            try:
                view = self._view(settings, self._revision, self._history_len)
                data: JsonObject = {"type": "runtime_updated", "runtime": view}
                await self._database.write(
                    lambda transaction: self._feed.append(
                        transaction, type="runtime_updated", session_id=None, run_id=None, data=data
                    )
                )
            except BaseException:
                self._configured = before
                raise
            self._apply(settings)

    async def revisions(self) -> list[JsonObject]:
        """Every kept revision, newest first."""
        found = await self._database.read(store.listed)
        return [revision.to_wire() for revision in found]

    async def set_model(self, provider: str | None, model: str, *, expected_revision: int | None) -> JsonObject:
        """Choose the default route and its model for later runs.

        Raises:
            UnknownRoute, ModelNotSupported: the choice is not possible.
            RevisionConflict: ``expected_revision`` is not the current one.
        """

        def change(settings: RuntimeSettings) -> RuntimeSettings:
            route_id = provider or settings.default_route
            chosen = self._configured.resolve(route_id, model)
            own = self._configured.resolve(chosen.route_id).model
            return replace(settings, default_route=chosen.route_id, model=None if chosen.model == own else chosen.model)

        return await self._change("model", change, expected_revision)

    async def set_permission_mode(self, mode: str, *, expected_revision: int | None) -> JsonObject:
        """Change how later tool calls are decided; pending approvals stay.

        Raises:
            BadRequest: there is no such mode.
            RevisionConflict: ``expected_revision`` is not the current one.
        """
        chosen = permission_mode(mode)
        return await self._change(
            "permission_mode", lambda settings: replace(settings, permission_mode=chosen), expected_revision
        )

    async def set_tool_limits(self, limits: JsonObject, *, expected_revision: int | None) -> JsonObject:
        """Replace the limits of later tool batches.

        Raises:
            InvalidToolRuntimeLimits: a limit is missing, unknown or out of range.
            RevisionConflict: ``expected_revision`` is not the current one.
        """
        chosen = ToolRuntimeLimits.from_json(limits)
        if any(value >= 2**53 for value in limits.values() if isinstance(value, int)):
            raise InvalidToolRuntimeLimits("A limit is larger than any machine.")
        return await self._change(
            "tool_limits", lambda settings: replace(settings, tool_limits=chosen), expected_revision
        )

    async def _change(
        self, setting: str, change: Callable[[RuntimeSettings], RuntimeSettings], expected_revision: int | None
    ) -> JsonObject:
        async with self._changing:
            if expected_revision is not None and expected_revision != self._number:
                raise RevisionConflict(f"The current revision is {self._number}, not {expected_revision}.")
            settings = change(self._settings)
            revision = Revision(
                revision=self._number + 1,
                at_ms=self._clock.now_ms(),
                setting=setting,
                source="runtime_api",
                settings=settings.to_json(),
            )

            def unit(transaction: Transaction) -> tuple[int, JsonObject]:
                store.append(transaction.connection, revision, keep=HISTORY_LIMIT)
                history_len = store.count(transaction.connection)
                view = self._view(settings, revision, history_len)
                data: JsonObject = {"type": "runtime_updated", "runtime": view}
                self._feed.append(transaction, type="runtime_updated", session_id=None, run_id=None, data=data)
                return history_len, view

            self._history_len, view = await self._database.write(unit)
            self._revision = revision
            self._apply(settings)
            return view

    def _view(self, settings: RuntimeSettings, revision: Revision | None, history_len: int) -> JsonObject:
        inventory = self._with_default(settings)
        default = None if inventory.default_route is None else inventory.resolve().to_wire()
        shown: JsonObject = default or {}
        return {
            "default_route": default,
            "route_id": shown.get("route_id"),
            "provider": shown.get("provider"),
            "model": shown.get("model"),
            "routes": [inventory.resolve(route.route_id).to_wire() for route in inventory.routes],
            "permission_mode": settings.permission_mode.value,
            "restart_policy": self._restart_policy,
            "tools": list(self._tool_names),
            "tool_limits": settings.tool_limits.to_json(),
            "config": {
                "revision": 0 if revision is None else revision.revision,
                "updated_at_ms": None if revision is None else revision.at_ms,
                "persisted": revision is not None,
                "history_len": history_len,
                "history_limit": HISTORY_LIMIT,
                "store_path": self._store_path,
            },
        }

    def _with_default(self, settings: RuntimeSettings) -> RouteInventory:
        if settings.default_route is None:
            return self._configured
        return self._configured.with_default(settings.default_route, settings.model)

    @property
    def _number(self) -> int:
        return 0 if self._revision is None else self._revision.revision

    def _apply(self, settings: RuntimeSettings) -> None:
        self._settings = settings
        self._permissions.set_mode(settings.permission_mode)
        self._inventory = self._with_default(settings)

    def _restored(self, stored: JsonObject) -> RuntimeSettings:
        """The stored settings as far as this daemon's routes still allow them."""
        route_id, model = _text(stored.get("default_route")), _text(stored.get("model"))
        try:
            self._configured.resolve(route_id, model)
        except Problem as problem:
            log.warning("runtime.stored_route_unusable", route_id=route_id, model=model, detail=problem.detail)
            route_id, model = self._configured.default_route, None
        limits = stored.get("tool_limits")
        return RuntimeSettings(
            permission_mode=permission_mode(str(stored["permission_mode"])),
            default_route=route_id,
            model=model,
            tool_limits=ToolRuntimeLimits.from_json(limits) if isinstance(limits, dict) else ToolRuntimeLimits(),
        )


def permission_mode(text: str) -> PermissionMode:
    """Read a mode as the wire writes it.

    Raises:
        BadRequest: there is no such mode.
    """
    try:
        return PermissionMode(text)
    except ValueError:
        raise BadRequest(f"mode must be one of {', '.join(PermissionMode)}.") from None


def _text(value: JsonValue) -> str | None:
    return value if isinstance(value, str) else None
