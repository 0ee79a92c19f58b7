"""JSON answers straight from our own values: no second validation on the way out."""

from __future__ import annotations

from starlette.responses import Response

from kheish.core.jsonvalue import encode


def json_response(value: object, status: int = 200) -> Response:
    """``value`` as compact JSON."""
    return Response(encode(value), status_code=status, media_type="application/json")
