"""Daemon-wide settings that change while it runs: one durable, revisioned store."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import field, replace

import structlog

from kheish.core.clock import Clock
from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.core.problems import BadRequest, Problem
from kheish.core.values import value_class
from kheish.policy.modes import PermissionMode
from kheish.policy.rules import RulePermissions
from kheish.providers.routes import RouteInventory, UnknownRoute
from kheish.runtime import store
from kheish.runtime.live_routes import ReadRoute, RouteIsDefault, RouteOfFile, checked, laid_over, tables_of
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


@value_class(frozen=True, kw_only=True, slots=True)
class RuntimeSettings:
    """What one revision says."""

    permission_mode: PermissionMode
    default_route: str | None
    """None: what the routes file or the command line says."""
    model: str | None
    """The default route's model where it differs from the route's own."""
    tool_limits: ToolRuntimeLimits
    routes: Mapping[str, JsonObject] = field(default_factory=dict)
    """Tables of routes that were added while the daemon ran."""

    def to_json(self) -> JsonObject:
        stored: JsonObject = {
            "permission_mode": self.permission_mode.value,
            "default_route": self.default_route,
            "model": self.model,
            "tool_limits": self.tool_limits.to_json(),
        }
        return {**stored, "routes": dict(self.routes)} if self.routes else stored


class Runtime:
    """Reads are from memory and see whole revisions only; changes are serialised and durable before they apply."""

    def __init__(
        self,
        *,
        database: Database,
        feed: Feed,
        clock: Clock,
        inventory: RouteInventory,
        read_route: ReadRoute,
        routes_changed: Callable[[RouteInventory], None],
        permissions: RulePermissions,
        tool_names: tuple[str, ...],
        store_path: str,
        restart_policy: str,
    ) -> None:
        """``inventory`` are the routes of the file or the command line; ``routes_changed`` is told of other routes."""
        self._database = database
        self._feed = feed
        self._clock = clock
        self._base = inventory
        self._configured = inventory
        self._inventory = inventory
        self._read_route = read_route
        self._routes_changed = routes_changed
        self._permissions = permissions
        self._tool_names = tool_names
        self._store_path = store_path
        self._restart_policy = restart_policy
        self._settings = RuntimeSettings(
            permission_mode=permissions.mode, default_route=None, model=None, tool_limits=ToolRuntimeLimits()
        )
        self._revision: Revision | None = None
        self._history_len = 0
        self._changing = asyncio.Lock()

    def restore(self, connection: sqlite3.Connection) -> None:
        """Take up the last revision; called at boot, before any work."""
        newest = store.newest(connection)
        tables = {} if newest is None else tables_of(newest.settings.get("routes"))
        self._configure(laid_over(self._base, tables, self._read_route))
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
            before = self._base, self._configured
            self._base = inventory
            self._configured = laid_over(inventory, self._settings.routes, self._read_route)
            settings = self._restored(self._settings.to_json())
            try:
                view = self._view(settings, self._revision, self._history_len)
                data: JsonObject = {"type": "runtime_updated", "runtime": view}
                await self._database.write(
                    lambda transaction: self._feed.append(
                        transaction, type="runtime_updated", session_id=None, run_id=None, data=data
                    )
                )
            except BaseException:
                self._base, self._configured = before
                raise
            self._configure(self._configured)
            self._apply(settings)

    async def set_route(
        self, route_id: str, table: JsonObject, *, make_default: bool, expected_revision: int | None
    ) -> JsonObject:
        """Add a route, or replace one; calls in flight end with the old one.

        Raises:
            RouteRefused: the table breaks a rule of routes files, holds a key, or names a missing secret.
            RevisionConflict: ``expected_revision`` is not the current one.
        """

        def change(settings: RuntimeSettings) -> RuntimeSettings:
            checked(route_id, table, self._read_route, self._base)
            default = route_id if make_default or self._inventory.default_route is None else settings.default_route
            same = default == self._inventory.default_route and not (make_default or default == route_id)
            changed = replace(settings, routes={**settings.routes, route_id: table}, default_route=default)
            return changed if same else replace(changed, model=None)

        return await self._change("routes", change, expected_revision)

    async def remove_route(self, route_id: str, *, expected_revision: int | None) -> JsonObject:
        """Remove a route that was added; one of the file that it stood for is back. Runs that are pinned to it fail.

        Raises:
            UnknownRoute: there is none.
            RouteOfFile: it stands in the routes file.
            RouteIsDefault: it is the default, and nothing would stand in its place.
            RevisionConflict: ``expected_revision`` is not the current one.
        """

        def change(settings: RuntimeSettings) -> RuntimeSettings:
            left = {name: table for name, table in settings.routes.items() if name != route_id}
            in_file = self._base.find(route_id) is not None
            if len(left) == len(settings.routes):
                if in_file:
                    raise RouteOfFile(
                        f"The route {route_id!r} stands in the routes file: edit the file and send SIGHUP."
                    )
                raise UnknownRoute(f"No route has the id {route_id!r}.")
            if route_id == self._inventory.default_route and not in_file:
                raise RouteIsDefault(f"{route_id!r} is the default route: choose another one with set-model first.")
            return replace(settings, routes=left)

        return await self._change("routes", change, expected_revision)

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
            route_id = provider or self._inventory.default_route
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
            configured = self._configured
            if settings.routes != self._settings.routes:
                configured = laid_over(self._base, settings.routes, self._read_route)
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
                view = self._view(settings, revision, history_len, configured)
                data: JsonObject = {"type": "runtime_updated", "runtime": view}
                self._feed.append(transaction, type="runtime_updated", session_id=None, run_id=None, data=data)
                return history_len, view

            self._history_len, view = await self._database.write(unit)
            self._revision = revision
            if configured is not self._configured:
                self._configure(configured)
            self._apply(settings)
            return view

    def _configure(self, inventory: RouteInventory) -> None:
        self._configured = inventory
        self._routes_changed(inventory)

    def _view(
        self,
        settings: RuntimeSettings,
        revision: Revision | None,
        history_len: int,
        configured: RouteInventory | None = None,
    ) -> JsonObject:
        inventory = _with_default(configured or self._configured, settings)
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

    @property
    def _number(self) -> int:
        return 0 if self._revision is None else self._revision.revision

    def _apply(self, settings: RuntimeSettings) -> None:
        self._settings = settings
        self._permissions.set_mode(settings.permission_mode)
        self._inventory = _with_default(self._configured, settings)

    def _restored(self, stored: JsonObject) -> RuntimeSettings:
        """The stored settings as far as this daemon's routes still allow them."""
        route_id, model = _text(stored.get("default_route")), _text(stored.get("model"))
        try:
            if route_id is not None:
                self._configured.resolve(route_id, model)
        except Problem as problem:
            log.warning("runtime.stored_route_unusable", route_id=route_id, model=model, detail=problem.detail)
            route_id, model = None, None
        limits = stored.get("tool_limits")
        return RuntimeSettings(
            permission_mode=permission_mode(str(stored["permission_mode"])),
            default_route=route_id,
            model=model,
            tool_limits=ToolRuntimeLimits.from_json(limits) if isinstance(limits, dict) else ToolRuntimeLimits(),
            routes=tables_of(stored.get("routes")),
        )


def _with_default(configured: RouteInventory, settings: RuntimeSettings) -> RouteInventory:
    if settings.default_route is None:
        return configured
    return configured.with_default(settings.default_route, settings.model)


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
