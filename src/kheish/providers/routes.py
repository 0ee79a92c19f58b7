"""Routes: named, daemon-owned bindings of driver, model, credential and capabilities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from kheish.core.jsonvalue import JsonObject
from kheish.core.problems import Problem
from kheish.core.values import value_class
from kheish.providers.capabilities import Capabilities
from kheish.providers.credentials import KeyStore, NoKeys, fits
from kheish.providers.drivers import Driver, endpoint_for, in_family
from kheish.providers.limits import Limits
from kheish.providers.prices import Price
from kheish.providers.tables import RoutesError
from kheish.providers.terms import RetryPolicy, RouteTerms

if TYPE_CHECKING:
    from kheish.providers.script import Script


class UnknownRoute(Problem):
    """No route has this id."""

    domain, code, status = "routes", "unknown_route", 400


class ModelNotSupported(Problem):
    """The route does not take this model."""

    domain, code, status = "routes", "model_not_supported", 400


class RouteNotReady(Problem):
    """The route cannot be used right now."""

    domain, code, status = "routes", "route_not_ready", 409


class RouteGone(Problem):
    """A run is pinned to a route that is no longer configured."""

    domain, code, status = "routes", "route_gone", 409


class ModelSupport(StrEnum):
    FAMILY = "family"  # only models of the driver's own vendor
    ANY = "any"  # every non-empty model id


class ReadinessState(StrEnum):
    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@value_class(frozen=True, kw_only=True, slots=True)
class Readiness:
    """Whether a route can be called now, and what to do when it cannot."""

    state: ReadinessState
    code: str
    message: str
    action: str | None = None


@value_class(frozen=True, kw_only=True, slots=True)
class Setting:
    """A configured text that may come from the environment, and never shows itself."""

    value: str | None = field(repr=False)
    env: str | None = None
    """The variable it was looked up in; None when it stood in the file or on the command line."""


@value_class(frozen=True, kw_only=True, slots=True)
class Route:
    """One route as configured."""

    route_id: str
    driver: Driver
    default_model: str
    model_support: ModelSupport = ModelSupport.FAMILY
    capabilities: Capabilities = field(default_factory=Capabilities)
    auth_ref: str | None = None
    api_key: Setting | None = None
    """None: the route needs no key."""
    base_url: str | None = None
    organization: Setting | None = None
    project: Setting | None = None
    store: bool = True
    """Of a vendor that can: replies are kept upstream, and requests go on from them."""
    anthropic_version: str = "2023-06-01"
    anthropic_beta_headers: tuple[str, ...] = ()
    context_window_tokens: int | None = None
    """Of every model behind this route; None: what is known of the model decides."""
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    prices: Mapping[str, Price] = field(default_factory=dict)
    """What the operator says tokens cost, by model or `*`."""
    limits: Limits = field(default_factory=Limits)
    script: Script | None = field(default=None, repr=False)
    """What a scripted route answers from."""

    @property
    def endpoint(self) -> str | None:
        """The URL a model call is posted to."""
        return endpoint_for(self.driver, self.base_url)

    @property
    def terms(self) -> RouteTerms:
        """When to call again and what a call costs."""
        return RouteTerms(driver=self.driver, retry=self.retry, prices=self.prices)

    @property
    def auth_kind(self) -> str:
        """Where its key comes from: `auth_ref`, `inline`, `environment` or `none`."""
        if self.auth_ref is not None:
            return "auth_ref"
        if self.api_key is None:
            return "none"
        return "inline" if self.api_key.env is None else "environment"

    def accepts(self, model: str) -> bool:
        """Say whether the route takes this model; its own default is always taken."""
        if not model.strip():
            return False
        return model == self.default_model or self.model_support is ModelSupport.ANY or in_family(self.driver, model)

    def readiness(self, keys: KeyStore | None = None) -> Readiness:
        """Whether the route can be called now, with the secrets of ``keys``."""
        if self.auth_ref is not None:
            return _stored_key_readiness(self.driver, self.auth_ref, keys or NoKeys())
        for name, setting in (
            ("api_key", self.api_key),
            ("organization", self.organization),
            ("project", self.project),
        ):
            if setting is not None and not setting.value:
                return Readiness(
                    state=ReadinessState.ERROR,
                    code=f"{name}_env_unset",
                    message=f"The environment variable {setting.env} is not set.",
                    action=f"Set {setting.env} and restart the daemon.",
                )
            if setting is not None and setting.value and not fits_header(setting.value):
                return Readiness(
                    state=ReadinessState.ERROR,
                    code=f"{name}_unusable",
                    message=f"The route's {name} has characters that no HTTP header may hold.",
                    action=f"Correct the {name} and restart the daemon.",
                )
        if self.api_key is None:
            return Readiness(state=ReadinessState.OK, code="no_auth", message="The route needs no credential.")
        if self.api_key.env is None:
            return Readiness(
                state=ReadinessState.OK,
                code="inline_key",
                message="The route uses a key written in its configuration.",
                action="Prefer api_key_env, which keeps the key out of files.",
            )
        return Readiness(
            state=ReadinessState.OK, code="env_key", message=f"The route uses the key in {self.api_key.env}."
        )


def fits_header(text: str) -> bool:
    """Whether an HTTP header can hold it."""
    return text.isascii() and text.isprintable()


def _stored_key_readiness(driver: Driver, auth_ref: str, keys: KeyStore) -> Readiness:
    found = keys.find(auth_ref)
    set_it = f"Run `kheish-daemon secrets set {auth_ref} --provider ... --from-file ...`."
    if found is None:
        return _unusable("slot_missing", f"There is no secret named {auth_ref!r}.", set_it)
    if not fits(driver, found):
        return _unusable("slot_provider_mismatch", f"The secret {auth_ref!r} is not a key for {driver}.", set_it)
    if not found.secret or not fits_header(found.secret):
        return _unusable("slot_unusable", f"The secret {auth_ref!r} holds no key that an HTTP header may hold.", set_it)
    return Readiness(state=ReadinessState.OK, code="slot", message=f"The route uses the secret {auth_ref!r}.")


def _unusable(code: str, message: str, action: str) -> Readiness:
    return Readiness(state=ReadinessState.ERROR, code=code, message=message, action=action)


@value_class(frozen=True, kw_only=True, slots=True)
class ResolvedRoute:
    """A route together with the model that will be called; what gets pinned on a run."""

    route_id: str
    provider: str
    """The driver's name."""
    model: str
    auth_ref: str | None
    capabilities: Capabilities
    context_window_tokens: int | None = None

    def to_wire(self) -> JsonObject:
        fields: JsonObject = {"route_id": self.route_id, "provider": self.provider, "model": self.model}
        if self.auth_ref is not None:
            fields["auth_ref"] = self.auth_ref
        if self.context_window_tokens is not None:
            fields["context_window_tokens"] = self.context_window_tokens
        return {**fields, "capabilities": self.capabilities.to_wire()}


@value_class(frozen=True, kw_only=True, slots=True)
class RouteInventory:
    """Every route of the daemon, the default first."""

    routes: tuple[Route, ...] = ()
    default_route: str | None = None
    keys: KeyStore = field(default_factory=NoKeys, repr=False)
    """Where `auth_ref` is looked up."""

    def readiness(self, route: Route) -> Readiness:
        """Whether the route can be called now."""
        return route.readiness(self.keys)

    def with_keys(self, keys: KeyStore) -> RouteInventory:
        """Look up every `auth_ref` in ``keys`` from now on.

        Raises:
            RoutesError: a route names a secret that does not exist.
        """
        for route in self.routes:
            if route.auth_ref is not None and keys.find(route.auth_ref) is None:
                raise RoutesError(
                    f"route {route.route_id!r}: auth_ref: the secret slot {route.auth_ref!r} does not exist. "
                    f"Create it: `kheish-daemon secrets set {route.auth_ref} --offline --state-root ...`."
                )
        return replace(self, keys=keys)

    def with_routes(self, routes: Iterable[Route]) -> RouteInventory:
        """Return the inventory with more routes; one with an id that is there already takes its place."""
        found = {route.route_id: route for route in self.routes}
        found.update((route.route_id, route) for route in routes)
        return replace(self, routes=tuple(found.values()))

    def find(self, route_id: str) -> Route | None:
        return next((route for route in self.routes if route.route_id == route_id), None)

    def resolve(self, route_id: str | None = None, model: str | None = None) -> ResolvedRoute:
        """Name the route and model of a request; None means the default of the daemon, then of the route.

        Raises:
            UnknownRoute: no route has the id.
            ModelNotSupported: the route refuses the model.
            RouteNotReady: no id was given and the daemon has no routes.
        """
        route = self._route(route_id)
        chosen = route.default_model if model is None else model
        if not route.accepts(chosen):
            hint = "" if route.model_support is ModelSupport.ANY else ' (its model_support is "family")'
            raise ModelNotSupported(f"The route {route.route_id!r} does not take the model {chosen!r}{hint}.")
        return ResolvedRoute(
            route_id=route.route_id,
            provider=route.driver.value,
            model=chosen,
            auth_ref=route.auth_ref,
            capabilities=route.capabilities,
            context_window_tokens=route.context_window_tokens,
        )

    def require_ready(self, route_id: str) -> None:
        """Check that a route can be used; a warning passes.

        Raises:
            UnknownRoute: no route has the id.
            RouteNotReady: its readiness is `error`; the detail names the route and an action.
        """
        readiness = self.readiness(self._route(route_id))
        if readiness.state is ReadinessState.ERROR:
            action = f" Action: {readiness.action}" if readiness.action else ""
            raise RouteNotReady(f"The route {route_id!r} is not ready: {readiness.message}{action}")

    def with_default(self, route_id: str, model: str | None = None) -> RouteInventory:
        """Return the inventory with another default route, and another default model of it.

        Raises:
            UnknownRoute, ModelNotSupported: as for `resolve`.
        """
        resolved = self.resolve(route_id, model)
        default = replace(self._route(route_id), default_model=resolved.model)
        others = tuple(route for route in self.routes if route.route_id != route_id)
        return replace(self, routes=(default, *others), default_route=route_id)

    def _route(self, route_id: str | None) -> Route:
        wanted = self.default_route if route_id is None else route_id
        if wanted is None:
            raise RouteNotReady(
                "The daemon has no model route. Action: start it with --routes-file, or with --provider and a key."
            )
        route = self.find(wanted)
        if route is None:
            raise UnknownRoute(f"No route has the id {wanted!r}.")
        return route
