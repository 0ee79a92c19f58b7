"""HTTP of the metrics."""

from __future__ import annotations

from typing import Annotated, Any

from starlette.requests import Request
from starlette.responses import Response

from kheish.http.api import Router
from kheish.http.arguments import SERVICE
from kheish.http.problems import READING
from kheish.telemetry.metrics import Metrics

router = Router(tag="daemon")

_TEXT = {"schema": {"type": "string"}}
_FORMATS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Metric families: OpenMetrics for clients that accept it, else the Prometheus text format",
        "content": {"application/openmetrics-text": _TEXT, "text/plain": _TEXT},
    }
}


@router.get("/metrics", response_class=Response, responses={**READING, **_FORMATS}, operation_id="get_metrics")
async def metrics(service: Annotated[Metrics, SERVICE], request: Request) -> Response:
    """What the daemon counts about itself, for a monitoring system."""
    body, content_type = await service.scrape(request.headers.get("accept", ""))
    return Response(body, headers={"content-type": content_type, "cache-control": "no-store", "vary": "accept"})
