"""The FastAPI application: routers of the capabilities, wrapped in the layers of the edge."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.types import ASGIApp

from kheish.daemon import system
from kheish.daemon.registry import routers
from kheish.http.bodies import DEFAULT_MAX_BYTES, Bodies
from kheish.http.failures import Failures
from kheish.http.gate import Authority, Gate
from kheish.http.paths import RawPaths
from kheish.http.problems import install
from kheish.http.services import provide

API_VERSION = "3"
"""Of the wire contract; `api_revision` in the capabilities."""


def build_app() -> FastAPI:
    """The routes without their services: enough for the OpenAPI document."""
    app = FastAPI(
        title="Kheish",
        version=API_VERSION,
        summary="A daemon that runs agents durably.",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # The daemon traces runs, not requests; asking for each of them whether somebody traces it is not free.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    install(app)
    for router in (*routers(), system.router):
        # One flat list: the router of an included router would be asked in turn for every request.
        app.router.routes.extend(router.routes)
    return app


def with_edge(
    app: FastAPI, services: tuple[object, ...], authority: Authority, *, max_body_bytes: int = DEFAULT_MAX_BYTES
) -> ASGIApp:
    """Give ``app`` its services and put the layers of the edge around it, outermost first."""
    provide(app, *services)
    return Failures(Gate(Bodies(RawPaths(app), max_bytes=max_body_bytes), authority))
