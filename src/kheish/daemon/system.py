"""Endpoints of the daemon itself: probes, status, capabilities, the OpenAPI document, the global stream."""

from __future__ import annotations

import asyncio
from functools import cache
from typing import Annotated

from pydantic import JsonValue
from starlette.responses import PlainTextResponse, Response

from kheish.core.jsonvalue import encode
from kheish.core.problems import Problem
from kheish.daemon.status import CAPABILITIES, StatusBoard
from kheish.http.api import Router
from kheish.http.arguments import SERVICE, Derived, Query
from kheish.http.problems import READING, documented
from kheish.http.responses import JsonResponse, json_response
from kheish.http.sse import STREAM_RESPONSE, Streams, event_cursor
from kheish.store.feed import Feed

router = Router(tag="daemon")

Board = Annotated[StatusBoard, SERVICE]


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


@cache
def _document() -> bytes:
    # What writes the document is a fifth of all that a start would import.
    from kheish.daemon.openapi import document

    return encode(document())


@router.get("/v1/openapi.json", response_model=dict[str, JsonValue], responses=READING, operation_id="get_openapi")
async def openapi_document() -> Response:
    """This API, described."""
    # Off the event loop: it takes a while, once, and streams go on meanwhile.
    return JsonResponse(await asyncio.to_thread(_document))


@router.get(
    "/v1/events/stream",
    response_class=Response,
    responses={**READING, **STREAM_RESPONSE},
    operation_id="stream_events",
)
async def stream(
    feed: Annotated[Feed, SERVICE],
    streams: Annotated[Streams, SERVICE],
    cursor: Annotated[int | None, Derived(event_cursor)],
    session_id: Annotated[str | None, Query()] = None,
    run_id: Annotated[str | None, Query()] = None,
) -> Response:
    """Server-sent events of the whole daemon, or of one session or run."""
    return streams.respond(feed.subscribe(cursor=cursor, session_id=session_id, run_id=run_id))
