"""How handlers get the services the composition root built, by their type."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from fastapi import FastAPI, Request

T = TypeVar("T")


def provide(app: FastAPI, *services: object) -> None:
    """Make ``services`` available to the handlers of ``app``."""
    app.state.services = {type(service): service for service in services}


def provided(kind: type[T]) -> Callable[[Request], Awaitable[T]]:
    """A dependency that is the service of this type."""

    async def find(request: Request) -> T:
        service: T = request.app.state.services[kind]
        return service

    return find
