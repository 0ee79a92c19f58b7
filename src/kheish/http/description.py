"""The OpenAPI document of an application whose failures are problem documents."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from kheish.http.bodies import JsonRoute
from kheish.http.problems import SCHEMA

_UNUSED_SCHEMAS = ("HTTPValidationError", "ValidationError")
"""The framework's own error shape."""


def describe(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of ``app``."""
    routes = [route.described() if isinstance(route, JsonRoute) else route for route in app.routes]
    document: dict[str, Any] = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=routes)
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name in _UNUSED_SCHEMAS:
        schemas.pop(name, None)
    schemas["Problem"] = SCHEMA
    # Optional: a daemon of this machine alone may ask for no token.
    document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"token": []}, {}]
    return document
