"""Where the routes come from: read at the start, read again, and compared with what was read."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import orjson
import structlog

from kheish.core.clock import Clock
from kheish.core.jsonvalue import JsonObject
from kheish.daemon.settings import Settings
from kheish.providers.credentials import KeyStore
from kheish.providers.openrouter_models import Discovery, asks, narrowed, wanted
from kheish.providers.routes import Route, RouteInventory
from kheish.providers.routes_file import load_routes, parse_route
from kheish.providers.single_route import single_route
from kheish.providers.tables import RoutesError

log = structlog.get_logger(__name__)

PLACE = "route-inventory.json"
"""Below the state root: which routes were loaded, from which file. No secret is in it."""
_SHOWN_HASH = 16


class RouteSource:
    """The routes file or the flags of this daemon. Blocking: while it serves, call it off the event loop."""

    def __init__(self, settings: Settings, keys: KeyStore, clock: Clock) -> None:
        """Read the routes.

        Raises:
            RoutesError: they cannot be used, and empty routes are not allowed.
        """
        self._settings = settings
        self._keys = keys
        self._clock = clock
        self._loaded: JsonObject = {}
        self.discovery = Discovery.DISABLED
        """Whether the models of OpenRouter are looked up; set when the routes are read."""
        self.inventory = self._first()
        """As they were read last."""

    def _first(self) -> RouteInventory:
        try:
            return self.again() if self._settings.routes_file is not None else self._from_flags()
        except RoutesError as problem:
            if not self._settings.allow_empty_routes:
                raise
            log.warning("daemon.no_routes", detail=problem.detail)
            self._note(None)
            return RouteInventory(keys=self._keys)

    def again(self) -> RouteInventory:
        """Read the routes file.

        Raises:
            RoutesError: there is no file, or it cannot be used.
        """
        file, default = self._settings.routes_file, self._settings.default_route
        if file is None:
            raise RoutesError("the routes came from the command line; only a routes file can be read again")
        digest = _digest(file)
        inventory = load_routes(file, self._settings.environ, default_route=default).with_keys(self._keys)
        self.inventory = self._required_models(inventory)
        self._note(digest)
        return self.inventory

    def _from_flags(self) -> RouteInventory:
        found = single_route(self._settings.single_route, self._settings.environ)
        inventory = RouteInventory(routes=found.routes, default_route=found.default_route, keys=self._keys)
        inventory = self._required_models(inventory)
        self._note(None)
        return inventory

    def _required_models(self, inventory: RouteInventory) -> RouteInventory:
        self.discovery = wanted(self._settings.environ)
        return narrowed(inventory, self.discovery) if self.discovery is Discovery.REQUIRED else inventory

    @property
    def asks_about_models(self) -> bool:
        """Whether a vendor is asked what its models can do, without waiting for it at the start."""
        return self.discovery is Discovery.BEST_EFFORT and bool(asks(self.inventory, self.discovery))

    def with_models(self) -> RouteInventory:
        """The routes, narrowed to what their models can do as far as the vendor says; takes as long as the vendor."""
        return narrowed(self.inventory, self.discovery)

    def route(self, route_id: str, table: JsonObject) -> Route:
        """Read the table of a route that is added while the daemon runs; paths start where those of the file do.

        Raises:
            RoutesError: it breaks a rule of routes files.
        """
        root = Path() if self._settings.routes_file is None else self._settings.routes_file.parent
        return parse_route(route_id, table, self._settings.environ, where="route", root=root)

    def record(self, inventory: RouteInventory) -> None:
        """Write down which routes are in force; a disk that refuses is logged and stops nothing."""
        self._loaded = {
            **self._loaded,
            "default_route": inventory.default_route,
            "route_ids": [route.route_id for route in inventory.routes],
        }
        place = self._settings.state_root / PLACE
        temporary = place.with_name(f".{PLACE}.{os.getpid()}")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(orjson.dumps(self._loaded, option=orjson.OPT_INDENT_2) + b"\n")
            temporary.replace(place)
        except OSError as error:
            log.warning("daemon.route_inventory_not_written", path=str(place), error=error.strerror)

    def status(self) -> JsonObject:
        """What was loaded, and whether the file still says the same."""
        loaded = self._loaded.get("routes_file_sha256")
        if not isinstance(loaded, str):
            return {**self._loaded, "drift": "none"}
        assert self._settings.routes_file is not None
        found = _digest(self._settings.routes_file)
        if found is None:
            return {**self._loaded, "drift": "unreadable"}
        if found == loaded:
            return {**self._loaded, "drift": "none"}
        shown = f"loaded {loaded[:_SHOWN_HASH]}, now {found[:_SHOWN_HASH]}"
        return {**self._loaded, "drift": "changed", "drift_hashes": shown}

    def _note(self, digest: str | None) -> None:
        file = self._settings.routes_file
        noted: Mapping[str, object] = {
            "version": 1,
            "source_kind": "serve_args" if file is None else "routes_file",
            "routes_file_path": None if file is None else str(file.resolve()),
            "routes_file_sha256": digest,
            "loaded_at_ms": self._clock.now_ms(),
        }
        self._loaded = {name: value for name, value in noted.items() if value is not None}  # type: ignore[misc]  # JSON all through


def _digest(file: Path) -> str | None:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return None
