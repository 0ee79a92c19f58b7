"""The operations of the daemon: declared by routers, found by path and method, called."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypedDict, TypeVar, Unpack

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from kheish.core.problems import Problem
from kheish.core.values import value_class
from kheish.http.arguments import Arguments
from kheish.http.bodies import parsed
from kheish.http.paths import segment_id
from kheish.http.problems import Internal, MethodNotAllowed, RouteNotFound, render

Handler = Callable[..., Awaitable[Response]]
H = TypeVar("H", bound=Handler)


class Documented(TypedDict, total=False):
    """What the OpenAPI document says of an operation, in the words of the framework that writes it."""

    status_code: int
    response_model: Any
    response_class: type[Response]
    responses: dict[int | str, dict[str, Any]]
    operation_id: str


@value_class(frozen=True, kw_only=True, slots=True)
class Route:
    """One operation."""

    method: str
    path: str
    """A segment in braces is an id: one segment, any text."""
    handler: Handler
    tag: str
    documented: Documented


class Router:
    """The operations of one capability."""

    def __init__(self, *, tag: str, prefix: str = "") -> None:
        self.routes: list[Route] = []
        self._tag = tag
        self._prefix = prefix

    def get(self, path: str, **documented: Unpack[Documented]) -> Callable[[H], H]:
        return self._declare("GET", path, documented)

    def post(self, path: str, **documented: Unpack[Documented]) -> Callable[[H], H]:
        return self._declare("POST", path, documented)

    def put(self, path: str, **documented: Unpack[Documented]) -> Callable[[H], H]:
        return self._declare("PUT", path, documented)

    def delete(self, path: str, **documented: Unpack[Documented]) -> Callable[[H], H]:
        return self._declare("DELETE", path, documented)

    def _declare(self, method: str, path: str, documented: Documented) -> Callable[[H], H]:
        def declare(handler: H) -> H:
            self.routes.append(
                Route(method=method, path=self._prefix + path, handler=handler, tag=self._tag, documented=documented)
            )
            return handler

        return declare


class _Operation:
    """A route with the services of one daemon."""

    def __init__(self, route: Route, services: Mapping[type, object]) -> None:
        self._route = route
        self._services = services

    # Worked out when the first request comes: a start has no time for what may never be called.
    @cached_property
    def _arguments(self) -> Arguments:
        return Arguments(self._route.handler, self._route.path)

    @cached_property
    def _given(self) -> dict[str, object]:
        return {name: self._services[kind] for name, kind in self._arguments.services.items()}

    async def answer(self, scope: Scope, receive: Receive, segments: list[str]) -> Response:
        arguments = self._arguments
        values = self._given.copy()
        for name, place in arguments.segments:
            values[name] = segment_id(segments[place])
        body = arguments.body
        if body is not None:
            # `Bodies` made one message of it.
            raw: bytes = (await receive())["body"]
            value = parsed(raw) if raw else None
        if arguments.read:
            request = Request(scope)
            for name, read in arguments.read:
                values[name] = read(request)
        if body is not None:
            values[body.name] = body.validated(value, absent=not raw)
        return await self._route.handler(**values)


@dataclass(slots=True)
class _Place:
    """Where the segments of a path have led to so far."""

    next: dict[str | None, _Place] = field(default_factory=dict)
    """By the next segment; None stands for any."""
    operations: dict[str, _Operation] = field(default_factory=dict)
    """By method, of the path that ends here."""


class Api:
    """Finds the operation that is asked for, calls it and answers; a failure becomes a problem document."""

    def __init__(self, routes: Iterable[Route], services: Iterable[object]) -> None:
        by_type = {type(service): service for service in services}
        self._root = _Place()
        for route in routes:
            operations = self._place(route.path).operations
            assert route.method not in operations, f"{route.method} {route.path} is declared twice"
            operations[route.method] = _Operation(route, by_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            response = await self._answer(scope, receive)
            await response(scope, receive, watched)
        except Problem as problem:
            if started:
                raise
            await render(problem)(scope, receive, send)
        except Exception:
            # Answered in here, where a page of an allowed origin may read it. The outermost wrapper logs it.
            if not started:
                await render(Internal())(scope, receive, watched)
            raise

    async def _answer(self, scope: Scope, receive: Receive) -> Response:
        segments: list[str] = scope["path"].split("/")
        method = scope["method"]
        places = self._reached(segments)
        for place in places:
            if (operation := place.operations.get(method)) is not None:
                return await operation.answer(scope, receive, segments)
        if not places:
            return render(RouteNotFound())
        allowed = sorted({method for place in places for method in place.operations})
        return render(MethodNotAllowed(), {"allow": ", ".join(allowed)})

    def _reached(self, segments: list[str]) -> list[_Place]:
        """Where a path ends that fits; one with the segment itself before one with any id in its place."""
        places = [] if segments[0] else [self._root]
        for segment in segments[1:]:
            keys = (segment, None) if segment else ()
            places = [found for place in places for key in keys if (found := place.next.get(key)) is not None]
        return [place for place in places if place.operations]

    def _place(self, path: str) -> _Place:
        place = self._root
        for segment in path.split("/")[1:]:
            place = place.next.setdefault(None if segment.startswith("{") else segment, _Place())
        return place
