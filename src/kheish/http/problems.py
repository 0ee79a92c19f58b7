"""Every failure as `application/problem+json`, rendered in this one place."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from pydantic import ValidationError
from starlette.responses import Response

from kheish.core.jsonvalue import JsonObject, encode
from kheish.core.problems import InvalidFields, Problem

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


def from_validation(error: ValidationError) -> Problem:
    """Name the fields of a body that are wrong."""
    wrong = error.errors(include_url=False, include_context=False, include_input=False)
    named = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'body'}: {one['msg']}" for one in wrong)
    return InvalidFields(named[:_MAX_DETAIL_CHARS])
