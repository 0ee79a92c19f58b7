"""The OpenAPI document. FastAPI writes it and is imported for nothing else, which is too much for a start."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Annotated, Any, get_args, get_origin

import fastapi
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from kheish.http.api import Route
from kheish.http.arguments import SERVICE, Derived, Header, Query
from kheish.http.problems import SCHEMA

_UNUSED_SCHEMAS = ("HTTPValidationError", "ValidationError")
"""The framework's own error shape."""


def describe(routes: Iterable[Route], *, title: str, version: str, summary: str) -> dict[str, Any]:
    """The OpenAPI document of ``routes``."""
    document: dict[str, Any] = get_openapi(
        title=title, version=version, summary=summary, routes=[_described(route) for route in routes]
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for name in _UNUSED_SCHEMAS:
        schemas.pop(name, None)
    schemas["Problem"] = SCHEMA
    # Optional: a daemon of this machine alone may ask for no token.
    document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"token": []}, {}]
    return document


def _described(route: Route) -> APIRoute:
    options: dict[str, Any] = {"response_model": None, **route.documented}
    return APIRoute(route.path, _stand_in(route.handler), methods=[route.method], tags=[route.tag], **options)


def _stand_in(function: Callable[..., object]) -> Callable[..., object]:
    """A function that the framework reads as we read ``function``."""

    async def stand_in() -> None: ...

    found = inspect.signature(function, eval_str=True).parameters.values()
    marked = [(parameter, _translated(parameter.annotation)) for parameter in found]
    parameters = [parameter.replace(annotation=kind) for parameter, kind in marked if kind is not None]
    stand_in.__name__, stand_in.__doc__ = function.__name__, function.__doc__
    stand_in.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what inspect looks for
    return stand_in


def _translated(annotation: Any) -> Any:
    """With the framework's marks in place of ours; None for what is nobody's business outside."""
    if get_origin(annotation) is not Annotated:
        return annotation
    kind, *marks = get_args(annotation)
    return None if SERVICE in marks else Annotated[(kind, *map(_mark, marks))]


def _mark(mark: object) -> object:
    match mark:
        case Query(description=description):
            return fastapi.Query(description=description)
        case Header(name=name, description=description):
            return fastapi.Header(alias=name, description=description)
        case Derived(make=make):
            return fastapi.Depends(_stand_in(make))
        case _:
            return mark
