"""How handlers get the services the composition root built, by their type."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, TypeVar

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant

T = TypeVar("T")


def provide(app: FastAPI, *services: object) -> None:
    """Make ``services`` available to the handlers of ``app``."""
    app.state.services = {type(service): service for service in services}


def provided(kind: type[T]) -> Callable[[], Awaitable[T]]:
    """A dependency that is the service of this type."""

    async def find() -> T:
        raise AssertionError(f"{kind.__name__} is handed over by the route, not asked for")

    _KINDS[find] = kind
    return find


_KINDS: dict[Callable[..., Any], type] = {}
"""What each of our dependencies finds."""
_REQUEST = "request_for_services"


def hand_over(dependant: Dependant) -> None:
    """Have a handler get its services directly: asked for as dependencies, each costs as much as the handler itself."""
    wanted = {one.name: _KINDS[one.call] for one in dependant.dependencies if one.call in _KINDS and one.name}
    if not wanted:
        return
    handler = dependant.call
    assert handler is not None
    name = dependant.request_param_name

    @wraps(handler)
    async def with_services(**values: Any) -> Any:
        request = values[name] if name else values.pop(_REQUEST)
        services = request.app.state.services
        return await handler(**values, **{service: services[kind] for service, kind in wanted.items()})

    dependant.dependencies = [one for one in dependant.dependencies if one.call not in _KINDS]
    dependant.call = with_services
    dependant.request_param_name = name or _REQUEST
