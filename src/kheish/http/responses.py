"""JSON answers straight from our own values: no second validation on the way out."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from kheish.core.jsonvalue import encode

_CONTENT_TYPE = (b"content-type", b"application/json")


class Described(BaseModel):
    """What an answer looks like, for the OpenAPI document alone: nothing is built of it before that is asked for."""

    model_config = ConfigDict(defer_build=True)


class JsonResponse(Response):
    """An answer whose body is encoded already."""

    media_type = "application/json"

    def __init__(self, body: bytes, status: int = 200) -> None:
        # The base class works headers out anew for each answer; these two are known.
        self.status_code = status
        self.body = body
        self.background = None
        self.raw_headers = [(b"content-length", b"%d" % len(body)), _CONTENT_TYPE]


def json_response(value: object, status: int = 200) -> Response:
    """``value`` as compact JSON."""
    return JsonResponse(encode(value), status)
