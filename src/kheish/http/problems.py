"""Every failure as `application/problem+json`, rendered in this one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from kheish.core.jsonvalue import JsonObject, encode
from kheish.core.problems import BadRequest, InvalidFields, Problem

MEDIA_TYPE = "application/problem+json"
_MAX_DETAIL_CHARS = 1000
"""Field names come from the caller: a detail must not grow with what was sent."""


class RouteNotFound(Problem):
    """No endpoint has this path."""

    domain, code, status = "api", "route_not_found", 404


class MethodNotAllowed(Problem):
    """This endpoint has no such method."""

    code, status = "method_not_allowed", 405


class UnsupportedMediaType(Problem):
    """Send the body as application/json."""

    code, status = "unsupported_media_type", 415


class PayloadTooLarge(Problem):
    """The request body is larger than this daemon accepts."""

    code, status = "payload_too_large", 413


class Internal(Problem):
    """The daemon failed on this request; the reason is in its log."""

    code, status = "internal", 500


class RequestRefused(Problem):
    """The request could not be processed."""

    code, status = "bad_request", 400


def document(problem: Problem) -> JsonObject:
    """The problem document; `domain` is left out when the problem has none."""
    fields: JsonObject = {
        "type": f"urn:kheish:problem:{problem.code}",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.code,
    }
    if problem.domain is not None:
        fields["domain"] = problem.domain
    return fields


def render(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """The HTTP response for ``problem``."""
    return Response(
        encode(document(problem)),
        status_code=problem.status,
        media_type=MEDIA_TYPE,
        headers=dict(headers) if headers else None,
    )


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI responses for these problem statuses."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in sorted(statuses)}


READING = documented(400, 401, 403, 404, 422, 429, 500)
"""What any GET may answer instead."""
CHANGING = documented(400, 401, 403, 404, 409, 413, 415, 422, 429, 500, 503)
"""What any mutation may answer instead."""
SCHEMA: JsonObject = {
    "type": "object",
    "title": "Problem",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string", "description": "urn:kheish:problem:<code>"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "For people; never branch on it."},
        "code": {"type": "string", "description": "For programs: stable."},
        "domain": {"type": "string", "description": "The part of the daemon the code belongs to."},
    },
}
"""The component every problem response refers to."""


def from_validation(errors: Sequence[Mapping[str, object]]) -> Problem:
    """Name the fields that are wrong; malformed JSON is a bad request, everything else a field error."""
    if any(error["type"] == "json_invalid" for error in errors):
        return BadRequest("The request body is not valid JSON.")
    named = "; ".join(f"{_location(error['loc'])}: {error['msg']}" for error in errors)
    return InvalidFields(named[:_MAX_DETAIL_CHARS] or None)


def install(app: FastAPI) -> None:
    """Make every failure of ``app`` a problem document."""

    async def on_problem(_: Request, error: Exception) -> Response:
        assert isinstance(error, Problem)
        return render(error)

    async def on_validation(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return render(from_validation(error.errors()))

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == HTTPStatus.NOT_FOUND:
            return render(RouteNotFound())
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            return render(MethodNotAllowed(), {"allow": ", ".join(_allowed_methods(app, request))})
        return render(RequestRefused(str(error.detail)))

    async def on_bug(_: Request, error: Exception) -> Response:
        # The framework raises it again once this is sent; the outermost wrapper logs it there.
        return render(Internal())

    app.add_exception_handler(Problem, on_problem)
    app.add_exception_handler(Exception, on_bug)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(HTTPException, on_http)


def _location(loc: object) -> str:
    parts = [str(part) for part in loc] if isinstance(loc, (tuple, list)) else [str(loc)]
    return ".".join(parts[1:]) or parts[0]


def _allowed_methods(app: FastAPI, request: Request) -> list[str]:
    # The router answers with the first route that fits the path; Allow names the methods of all of them.
    allowed: set[str] = set()
    for route in app.router.routes:
        match, _ = route.matches(request.scope)
        if match is not Match.NONE:
            allowed |= getattr(route, "methods", None) or set()
    return sorted(allowed)
