"""JSON answers straight from our own values: no second validation on the way out."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from kheish.core.jsonvalue import encode


class Described(BaseModel):
    """What an answer looks like, for the OpenAPI document alone: nothing is built of it before that is asked for."""

    model_config = ConfigDict(defer_build=True)


def json_response(value: object, status: int = 200) -> Response:
    """``value`` as compact JSON."""
    return Response(encode(value), status_code=status, media_type="application/json")
