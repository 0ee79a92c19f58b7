"""From a pinned route to the provider that serves it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from kheish.providers.credentials import StoredKey
from kheish.providers.drivers import Driver
from kheish.providers.exchanges import ModelClient
from kheish.providers.limits import Limits
from kheish.providers.protocol import Provider
from kheish.providers.routes import Route, RouteGone, RouteInventory, fits_header
from kheish.providers.terms import RouteTerms
from kheish.providers.transport import ModelEndpoint, new_model_client


class PinnedRoute(Protocol):
    """What a run remembers of its route."""

    @property
    def route_id(self) -> str: ...

    @property
    def driver(self) -> str: ...


class ProviderRegistry:
    """Builds each route's provider on first use and keeps it. All of them share one HTTP client."""

    def __init__(
        self, inventory: RouteInventory, client: ModelClient | None = None, *, limits: Limits | None = None
    ) -> None:
        """``limits`` replace those of every route.

        A ``client`` that is handed in stays the caller's to close; without one the first call makes one.
        """
        self._inventory = inventory
        self._client = client
        self._limits = limits
        self._owned: ModelClient | None = None
        self._providers: dict[str, Provider] = {}
        self._settled: dict[tuple[str, str], Provider] = {}
        """By id and driver, of routes that were ready and whose key is not in the secret store: they stay ready."""
        self._terms: dict[str, RouteTerms] = {}

    def provider_for(self, route: PinnedRoute) -> Provider:
        """Return the provider of a pinned route.

        Raises:
            RouteGone: the route is no longer configured, or has another driver now.
            RouteNotReady: the route has no usable credential.
        """
        settled = self._settled.get((route.route_id, route.driver))
        if settled is not None:
            return settled
        configured = self._inventory.find(route.route_id)
        if configured is None or configured.driver.value != route.driver:
            raise RouteGone(f"The route {route.route_id!r} this run is pinned to is no longer configured.")
        self._inventory.require_ready(route.route_id)
        provider = self._providers.get(route.route_id)
        if provider is None:
            provider = self._providers[route.route_id] = self._build(configured)
        if configured.auth_ref is None:
            self._settled[route.route_id, route.driver] = provider
        return provider

    def refresh(self, route: PinnedRoute) -> bool:
        """Use the key that the secret store has now; False when the route's key is not from there."""
        configured = self._inventory.find(route.route_id)
        if configured is None or configured.auth_ref is None:
            return False
        self._providers.pop(route.route_id, None)
        return True

    def terms_for(self, route: PinnedRoute) -> RouteTerms:
        """Return a pinned route's terms; those of its driver when the route is gone."""
        known = self._terms.get(route.route_id)
        if known is not None:
            return known
        configured = self._inventory.find(route.route_id)
        if configured is None:
            return RouteTerms(driver=Driver(route.driver))
        terms = self._terms[route.route_id] = configured.terms
        return terms

    def replace_routes(self, inventory: RouteInventory) -> None:
        """Use other routes from the next call on; calls in flight end with the old ones."""
        self._inventory = inventory
        self._forget()

    def secret_changed(self, slot_id: str) -> None:
        """Build the providers that use this secret anew; calls in flight end with the old one."""
        for route in self._inventory.routes:
            if route.auth_ref == slot_id:
                self._providers.pop(route.route_id, None)

    async def aclose(self) -> None:
        """Close the connections this registry opened."""
        self._forget()
        owned, self._owned = self._owned, None
        if owned is not None:
            await owned.aclose()

    def _forget(self) -> None:
        self._providers.clear()
        self._settled.clear()
        self._terms.clear()

    def _build(self, route: Route) -> Provider:
        # Late imports: a daemon loads the wires its routes use and no others.
        match route.driver:
            case Driver.SCRIPTED:
                from kheish.providers.scripted import ScriptedProvider

                assert route.script is not None
                return ScriptedProvider(route.script)
            case Driver.OPENROUTER | Driver.OPENAI_COMPATIBLE:
                from kheish.providers.chat_completions import ChatCompletionsProvider

                return ChatCompletionsProvider(route.driver, self._endpoint(route, _bearer(self._key(route))))
            case Driver.ANTHROPIC:
                from kheish.providers.anthropic import AnthropicProvider

                return AnthropicProvider(
                    self._endpoint(route, _anthropic_headers(route, self._key(route))),
                    betas=route.anthropic_beta_headers,
                )
            case Driver.OPENAI:
                from kheish.providers.openai_responses import OPENAI, ResponsesProvider

                dialect = replace(OPENAI, stores=route.store)
                return ResponsesProvider(self._endpoint(route, self._openai_headers(route)), dialect)
            case Driver.XAI:
                from kheish.providers.openai_responses import XAI, ResponsesProvider

                return ResponsesProvider(self._endpoint(route, _bearer(self._key(route))), XAI)
            case Driver.PYDANTIC_AI:
                from kheish.providers.pydantic_ai import PydanticAiProvider

                return PydanticAiProvider(self._limits or route.limits)
            case Driver.GOOGLE:
                from kheish.providers.google import GoogleProvider

                key = self._key(route)
                return GoogleProvider(self._endpoint(route, {"x-goog-api-key": key} if key else {}))

    def _endpoint(self, route: Route, headers: Mapping[str, str]) -> ModelEndpoint:
        if self._client is None and self._owned is None:
            self._owned = new_model_client()
        client = self._client or self._owned
        assert client is not None
        assert route.endpoint is not None
        return ModelEndpoint(
            provider=route.driver.value,
            url=route.endpoint,
            client=client,
            headers=headers,
            limits=self._limits or route.limits,
        )

    def _openai_headers(self, route: Route) -> dict[str, str]:
        stored = self._stored(route)
        headers = _bearer(self._key(route))
        for name, setting in (("organization", route.organization), ("project", route.project)):
            beside_key = None if stored is None else stored.text(name)
            value = beside_key if setting is None else setting.value
            if value and fits_header(value):
                headers[f"OpenAI-{name.capitalize()}"] = value
        return headers

    def _key(self, route: Route) -> str | None:
        stored = self._stored(route)
        if stored is not None:
            return stored.secret
        return route.api_key.value if route.api_key else None

    def _stored(self, route: Route) -> StoredKey | None:
        return None if route.auth_ref is None else self._inventory.keys.find(route.auth_ref)


def _bearer(key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


def _anthropic_headers(route: Route, key: str | None) -> dict[str, str]:
    return {"anthropic-version": route.anthropic_version} | ({"x-api-key": key} if key else {})
