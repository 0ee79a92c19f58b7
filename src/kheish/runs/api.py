"""HTTP of runs: parse, call the service, return."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import WithJsonSchema
from starlette.responses import Response

from kheish.http.bodies import JsonRoute
from kheish.http.idempotency import agreed_key, header_key
from kheish.http.paging import InvalidOrder, Paging, is_true, paging
from kheish.http.problems import CHANGING, READING
from kheish.http.responses import json_response
from kheish.http.services import provided
from kheish.http.sse import STREAM_RESPONSE, Streams, event_cursor
from kheish.runs.ingress import Ingress
from kheish.runs.models import PruneReport, PruneRuns, RunEventEntry, RunPage, RunView, SubmitInput, SubmitRun
from kheish.runs.retention import Retention
from kheish.runs.service import RunControl, RunLedger
from kheish.sessions.models import SessionView
from kheish.sessions.service import Sessions
from kheish.store.feed import Feed

router = APIRouter(prefix="/v1", tags=["runs"], route_class=JsonRoute)

Ledger = Annotated[RunLedger, Depends(provided(RunLedger))]
Inbound = Annotated[Ingress, Depends(provided(Ingress))]


@router.post(
    "/sessions/{session_id:id}/runs",
    status_code=202,
    response_model=RunView,
    responses=CHANGING,
    operation_id="submit_run",
)
async def submit(
    ingress: Inbound, session_id: str, body: SubmitRun, header: Annotated[str | None, Depends(header_key)]
) -> Response:
    """Queue a run and return at once."""
    key = agreed_key(header, body.idempotency_key)
    return json_response(await ingress.submit(session_id, body, key=key), 202)


@router.post(
    "/sessions/{session_id:id}/input", response_model=SessionView, responses=CHANGING, operation_id="run_input"
)
async def run_input(
    ingress: Inbound,
    sessions: Annotated[Sessions, Depends(provided(Sessions))],
    session_id: str,
    body: SubmitInput,
) -> Response:
    """Execute input on an idle session and return when it is done or waits for a human."""
    await ingress.run_inline(session_id, body)
    return json_response(await sessions.view(session_id))


@router.get("/runs", response_model=list[RunView] | RunPage, responses=READING, operation_id="list_runs")
async def list_runs(
    ledger: Ledger,
    pages: Annotated[Paging, Depends(paging)],
    session_id: Annotated[str | None, Query()] = None,
    priority_active: Annotated[str | None, WithJsonSchema({"type": "boolean"}), Query()] = None,
    order: Annotated[
        str | None, WithJsonSchema({"type": "string", "enum": ["asc", "desc"]}), Query(description="pages only")
    ] = None,
) -> Response:
    """Runs: the newest ascending, with priority_active live ones first, or a page."""
    if order not in (None, "asc", "desc"):
        raise InvalidOrder
    found = await ledger.list(
        pages, session_id=session_id, priority_active=is_true(priority_active), descending=order == "desc"
    )
    return json_response(found)


@router.get("/runs/{run_id:id}", response_model=RunView, responses=READING, operation_id="get_run")
async def get(ledger: Ledger, run_id: str) -> Response:
    """One run with its outputs."""
    return json_response(await ledger.view(run_id))


@router.get(
    "/runs/{run_id:id}/events",
    response_model=list[RunEventEntry],
    responses=READING,
    operation_id="get_run_events",
)
async def events(ledger: Ledger, run_id: str) -> Response:
    """What happened to the run, in order."""
    return json_response(await ledger.events(run_id))


@router.get(
    "/runs/{run_id:id}/stream",
    response_class=Response,
    responses={**READING, **STREAM_RESPONSE},
    operation_id="stream_run",
)
async def stream(
    ledger: Ledger,
    feed: Annotated[Feed, Depends(provided(Feed))],
    streams: Annotated[Streams, Depends(provided(Streams))],
    cursor: Annotated[int | None, Depends(event_cursor)],
    run_id: str,
) -> Response:
    """Server-sent events of one run."""
    await ledger.session_of(run_id)
    return streams.respond(feed.subscribe(cursor=cursor, run_id=run_id))


@router.post("/runs/{run_id:id}/cancel", response_model=RunView, responses=CHANGING, operation_id="cancel_run")
async def cancel(control: Annotated[RunControl, Depends(provided(RunControl))], run_id: str) -> Response:
    """Stop the run. One that is over is returned as it is."""
    return json_response(await control.cancel(run_id))


@router.post("/runs/prune", response_model=PruneReport, responses=CHANGING, operation_id="prune_runs")
async def prune(retention: Annotated[Retention, Depends(provided(Retention))], body: PruneRuns) -> Response:
    """Delete debug evidence of runs that ended long ago. Runs, their events, journals and outputs stay."""
    return json_response(await retention.prune(body))
