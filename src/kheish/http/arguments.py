"""What the parameters of a handler are, and where their values come from."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, Final, get_args, get_origin

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from kheish.core.jsonvalue import JsonValue
from kheish.core.problems import InvalidFields
from kheish.core.values import value_class
from kheish.http.problems import from_validation

SERVICE: Final = "service"
"""Marks a parameter that is the service of its type, which the composition root built."""


@value_class(frozen=True, kw_only=True, slots=True)
class Query:
    """Marks a parameter of the query string, as text; None when it is not given."""

    description: str | None = None


@value_class(frozen=True, kw_only=True, slots=True)
class Header:
    """Marks a request header, as text; None when it is not sent."""

    name: str
    description: str | None = None


@value_class(frozen=True, slots=True)
class Derived:
    """Marks what a function makes of the request; its parameters are read like those of a handler."""

    make: Callable[..., object]


Read = Callable[[Request], object]


@value_class(frozen=True, kw_only=True, slots=True)
class Body:
    """The parameter that is the request's body."""

    name: str
    model: type[BaseModel]
    optional: bool

    def validated(self, value: JsonValue, *, absent: bool) -> BaseModel | None:
        """The body as its model; one that is not there is null.

        Raises:
            InvalidFields: the body or a field is missing or wrong.
        """
        if value is None and self.optional:
            return None
        if absent:
            raise InvalidFields("body: Field required")
        try:
            return self.model.model_validate(value, from_attributes=True)
        except ValidationError as error:
            raise from_validation(error) from None


class Arguments:
    """The parameters of one handler."""

    def __init__(self, handler: Callable[..., object], path: str) -> None:
        """``path``: what a parameter in braces names is a segment of it."""
        self.services: dict[str, type] = {}
        self.segments: list[tuple[str, int]] = []
        """Names, each with the place of its segment in the path."""
        self.body: Body | None = None
        self.read: list[tuple[str, Read]] = []
        """What must look at the request."""
        places = {segment: place for place, segment in enumerate(path.split("/"))}
        for name, kind, marks in _parameters(handler):
            if SERVICE in marks:
                self.services[name] = kind
            elif (place := places.get(f"{{{name}}}")) is not None:
                self.segments.append((name, place))
            elif (model := _model(kind)) is not None:
                self.body = Body(name=name, model=model, optional=model is not kind)
            else:
                self.read.append((name, _reader(name, kind, marks)))


def _parameters(function: Callable[..., object]) -> list[tuple[str, Any, list[Any]]]:
    found = []
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        annotated = get_origin(parameter.annotation) is Annotated
        kind, *marks = get_args(parameter.annotation) if annotated else (parameter.annotation,)
        found.append((parameter.name, kind, marks))
    return found


def _model(kind: Any) -> type[BaseModel] | None:
    """The model of a body, which may be optional."""
    for one in get_args(kind) or (kind,):
        if isinstance(one, type) and issubclass(one, BaseModel):
            return one
    return None


def _reader(name: str, kind: Any, marks: list[Any]) -> Read:
    for mark in marks:
        match mark:
            case Query():
                return lambda request: request.query_params.get(name)
            case Header(name=header):
                return lambda request: request.headers.get(header)
            case Derived(make=make):
                return _derived(make)
    assert kind is Request, f"{name} has no mark that says where it comes from"
    return lambda request: request


def _derived(make: Callable[..., object]) -> Read:
    readers = [(name, _reader(name, kind, marks)) for name, kind, marks in _parameters(make)]
    return lambda request: make(**{name: read(request) for name, read in readers})
