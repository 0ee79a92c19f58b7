"""The capabilities of this daemon: one line each."""

from __future__ import annotations

from importlib import import_module

from kheish.http.api import Router

CAPABILITIES = (
    "kheish.runs",
    "kheish.sessions",
    "kheish.external_actions",
    "kheish.approvals",
    "kheish.questions",
    "kheish.runtime",
    "kheish.telemetry",
    "kheish.secrets",
    "kheish.broker",
)


def routers() -> list[Router]:
    """The HTTP routers of all capabilities."""
    found = []
    for name in CAPABILITIES:
        router = import_module(f"{name}.api").router
        assert isinstance(router, Router)
        found.append(router)
    return found
