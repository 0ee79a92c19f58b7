"""Endpoints of the daemon itself: probes, status, capabilities, the OpenAPI document, the global stream."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from pydantic import JsonValue
from starlette.responses import PlainTextResponse, Response

from kheish.core.jsonvalue import encode
from kheish.core.problems import Problem
from kheish.daemon.status import CAPABILITIES, StatusBoard
from kheish.http.bodies import JsonRoute
from kheish.http.description import describe
from kheish.http.problems import READING, documented
from kheish.http.responses import json_response
from kheish.http.services import provided
from kheish.http.sse import STREAM_RESPONSE, Streams, event_cursor
from kheish.store.feed import Feed

router = APIRouter(tags=["daemon"], route_class=JsonRoute)

Board = Annotated[StatusBoard, Depends(provided(StatusBoard))]


class Draining(Problem):
    """The daemon is shutting down."""

    domain, code, status = "readiness", "daemon_draining", 503


@router.get("/healthz", response_class=PlainTextResponse, responses=documented(500), operation_id="health")
async def healthz() -> Response:
    """The process lives."""
    return PlainTextResponse("ok\n")


@router.get("/readyz", response_class=PlainTextResponse, responses=documented(500, 503), operation_id="ready")
async def readyz(board: Board) -> Response:
    """The daemon takes work."""
    if board.draining:
        raise Draining
    return PlainTextResponse("ready\n")


@router.get("/v1/status", response_model=dict[str, JsonValue], responses=READING, operation_id="get_status")
async def status(board: Board) -> Response:
    """Everything an operator looks at first."""
    return json_response(await board.snapshot())


@router.get("/v1/capabilities", response_model=dict[str, JsonValue], responses=READING, operation_id="get_capabilities")
async def capabilities() -> Response:
    """What this daemon can do, for clients that ask before they use it."""
    return json_response(CAPABILITIES)


def _document(app: FastAPI) -> bytes:
    return encode(describe(app))


@router.get("/v1/openapi.json", response_model=dict[str, JsonValue], responses=READING, operation_id="get_openapi")
async def openapi_document(request: Request) -> Response:
    """This API, described."""
    cached: bytes | None = getattr(request.app.state, "openapi_document", None)
    if cached is None:
        # Off the event loop: it takes a while, once, and streams go on meanwhile.
        cached = request.app.state.openapi_document = await asyncio.to_thread(_document, request.app)
    return Response(cached, media_type="application/json")


@router.get(
    "/v1/events/stream",
    response_class=Response,
    responses={**READING, **STREAM_RESPONSE},
    operation_id="stream_events",
)
async def stream(
    feed: Annotated[Feed, Depends(provided(Feed))],
    streams: Annotated[Streams, Depends(provided(Streams))],
    cursor: Annotated[int | None, Depends(event_cursor)],
    session_id: Annotated[str | None, Query()] = None,
    run_id: Annotated[str | None, Query()] = None,
) -> Response:
    """Server-sent events of the whole daemon, or of one session or run."""
    return streams.respond(feed.subscribe(cursor=cursor, session_id=session_id, run_id=run_id))
