"""The OpenAPI document, without a running daemon."""

from __future__ import annotations

from typing import Any

from kheish.daemon.app import routes
from kheish.http.description import describe

API_VERSION = "3"
"""Of the wire contract; `api_revision` in the capabilities."""


def document() -> dict[str, Any]:
    """What `GET /v1/openapi.json` answers."""
    return describe(routes(), title="Kheish", version=API_VERSION, summary="A daemon that runs agents durably.")
