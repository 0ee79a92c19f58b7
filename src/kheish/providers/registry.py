"""From a pinned route to the provider that serves it."""

from __future__ import annotations

from typing import Protocol

import httpx2

from kheish.providers.drivers import Driver
from kheish.providers.protocol import Provider
from kheish.providers.routes import Route, RouteGone, RouteInventory, RouteNotReady


class PinnedRoute(Protocol):
    """What a run remembers of its route."""

    @property
    def route_id(self) -> str: ...

    @property
    def driver(self) -> str: ...


class ProviderRegistry:
    """Builds each route's provider on first use and keeps it. All of them share one HTTP client."""

    def __init__(self, inventory: RouteInventory, client: httpx2.AsyncClient | None = None) -> None:
        """A ``client`` that is handed in stays the caller's to close; without one the first call makes one."""
        self._inventory = inventory
        self._client = client
        self._owned: httpx2.AsyncClient | None = None
        self._providers: dict[str, Provider] = {}

    def provider_for(self, route: PinnedRoute) -> Provider:
        """Return the provider of a pinned route.

        Raises:
            RouteGone: the route is no longer configured, or has another driver now.
            RouteNotReady: the route has no usable credential.
        """
        configured = self._inventory.find(route.route_id)
        if configured is None or configured.driver.value != route.driver:
            raise RouteGone(f"The route {route.route_id!r} this run is pinned to is no longer configured.")
        self._inventory.require_ready(route.route_id)
        provider = self._providers.get(route.route_id)
        if provider is None:
            provider = self._providers[route.route_id] = self._build(configured)
        return provider

    async def aclose(self) -> None:
        """Close the connections this registry opened."""
        self._providers.clear()
        owned, self._owned = self._owned, None
        if owned is not None:
            await owned.aclose()

    def _build(self, route: Route) -> Provider:
        # Late imports: a daemon loads the wires its routes use and no others.
        match route.driver:
            case Driver.SCRIPTED:
                from kheish.providers.scripted import ScriptedProvider

                assert route.script is not None
                return ScriptedProvider(route.script)
            case _:
                raise RouteNotReady(f"The route {route.route_id!r} has a driver that is not available yet.")
