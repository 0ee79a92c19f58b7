"""The application: operations of the capabilities, wrapped in the layers of the edge."""

from __future__ import annotations

from starlette.types import ASGIApp

from kheish.daemon import system
from kheish.daemon.registry import routers
from kheish.http.api import Api, Route
from kheish.http.bodies import DEFAULT_MAX_BYTES, Bodies
from kheish.http.failures import Failures
from kheish.http.gate import Authority, Gate
from kheish.http.paths import RawPaths


def routes() -> list[Route]:
    """Every operation of the daemon."""
    return [route for router in (*routers(), system.router) for route in router.routes]


def application(
    services: tuple[object, ...], authority: Authority, *, max_body_bytes: int = DEFAULT_MAX_BYTES
) -> ASGIApp:
    """The operations with their services, and the layers of the edge around them, outermost first."""
    api = Api(routes(), services)
    return Failures(Gate(Bodies(RawPaths(api), max_bytes=max_body_bytes), authority))
