"""The OpenAPI document, without a running daemon."""

from __future__ import annotations

from typing import Any

from kheish.daemon.app import build_app
from kheish.http.description import describe


def document() -> dict[str, Any]:
    """What `GET /v1/openapi.json` answers."""
    return describe(build_app())
