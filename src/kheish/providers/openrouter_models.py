"""What OpenRouter says its models can do: routes lose the capabilities that their model has not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from urllib.parse import urlsplit

import structlog

from kheish.core.jsonvalue import JsonObject, JsonValue, decode_object
from kheish.core.values import value_class
from kheish.providers.capabilities import Capabilities
from kheish.providers.drivers import Driver
from kheish.providers.routes import Route, RouteInventory
from kheish.providers.tables import RoutesError

log = structlog.get_logger(__name__)

VARIABLE = "KHEISH_OPENROUTER_MODEL_DISCOVERY"
_VENDOR_HOST = "openrouter.ai"
_RESOURCE = "/chat/completions"
_TIMEOUT_S = 15.0


class Discovery(StrEnum):
    """How much the answer of the Models API counts."""

    BEST_EFFORT = "best_effort"
    """Asked of the vendor's own host only, and never waited for."""
    REQUIRED = "required"
    """The daemon does not start without it."""
    DISABLED = "disabled"


@value_class(frozen=True, kw_only=True, slots=True)
class Modalities:
    """What one model takes in and gives out, in lower case."""

    takes: frozenset[str]
    gives: frozenset[str]

    def narrow(self, capabilities: Capabilities) -> Capabilities:
        """What is left of a route's capabilities; speech and transcription have models of their own."""
        return replace(
            capabilities,
            multimodal_input=capabilities.multimodal_input and bool(self.takes & {"image", "audio"}),
            image_generation=capabilities.image_generation and "text" in self.takes and "image" in self.gives,
            image_edit=capabilities.image_edit and "image" in self.takes and "image" in self.gives,
        )


def wanted(environ: Mapping[str, str]) -> Discovery:
    """Read the variable.

    Raises:
        RoutesError: it holds another word.
    """
    text = environ.get(VARIABLE, "").strip()
    if not text:
        return Discovery.BEST_EFFORT
    if text not in (Discovery.REQUIRED, Discovery.DISABLED):
        raise RoutesError(f"{VARIABLE} must be {Discovery.REQUIRED} or {Discovery.DISABLED}, or unset")
    return Discovery(text)


def asks(inventory: RouteInventory, discovery: Discovery) -> list[Route]:
    """The routes whose model is looked up."""
    if discovery is Discovery.DISABLED:
        return []
    routes = [route for route in inventory.routes if route.driver is Driver.OPENROUTER]
    if discovery is Discovery.REQUIRED:
        return routes
    return [route for route in routes if urlsplit(route.endpoint or "").hostname == _VENDOR_HOST]


def narrowed(inventory: RouteInventory, discovery: Discovery) -> RouteInventory:
    """Ask, blocking, and return the inventory with what the models have.

    Raises:
        RoutesError: the answer is required and did not come, or names no model.
    """
    asked = asks(inventory, discovery)
    if not asked:
        return inventory
    import httpx2  # late: most daemons ask nothing

    found: list[Route] = []
    for route in asked:
        try:
            models = _models(route)
        except (httpx2.HTTPError, ValueError) as error:
            text = f"the models of route {route.route_id!r} could not be looked up ({type(error).__name__})"
            if discovery is Discovery.REQUIRED:
                raise RoutesError(f"{VARIABLE}: {text}") from None
            log.warning("routes.models_unknown", route_id=route.route_id, error=type(error).__name__)
            continue
        known = models.get(route.default_model)
        if known is not None:
            found.append(replace(route, capabilities=known.narrow(route.capabilities)))
    return inventory.with_routes(found)


def _models(route: Route) -> dict[str, Modalities]:
    import httpx2

    assert route.endpoint is not None
    address = route.endpoint.removesuffix(_RESOURCE) + "/models"
    response = httpx2.get(address, timeout=_TIMEOUT_S, follow_redirects=False)
    response.raise_for_status()
    data = decode_object(response.content).get("data")
    if not isinstance(data, list) or not data:
        raise ValueError("no models")
    entries = [entry for entry in data if isinstance(entry, dict)]
    return {str(entry.get("id") or entry.get("slug")): _modalities(entry) for entry in entries}


def _modalities(entry: JsonObject) -> Modalities:
    architecture = entry.get("architecture")
    described = architecture if isinstance(architecture, dict) else {}
    return Modalities(takes=_words(described.get("input_modalities")), gives=_words(described.get("output_modalities")))


def _words(value: JsonValue) -> frozenset[str]:
    return frozenset(str(word).lower() for word in value) if isinstance(value, list) else frozenset()
