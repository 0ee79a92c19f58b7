"""The capabilities of this daemon: one line each."""

from __future__ import annotations

from importlib import import_module

from fastapi import APIRouter

# Routes are tried in this order: the busiest first.
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


def routers() -> list[APIRouter]:
    """The HTTP routers of all capabilities."""
    found = []
    for name in CAPABILITIES:
        router = import_module(f"{name}.api").router
        assert isinstance(router, APIRouter)
        found.append(router)
    return found
