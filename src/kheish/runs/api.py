"""HTTP of runs: parse, call the service, return."""

from __future__ import annotations

from typing import Annotated

from pydantic import WithJsonSchema
from starlette.responses import Response

from kheish.http.api import Router
from kheish.http.arguments import SERVICE, Derived, Query
from kheish.http.idempotency import agreed_key, header_key
from kheish.http.paging import InvalidOrder, Paging, is_true, paging
from kheish.http.problems import CHANGING, READING
from kheish.http.responses import json_response
from kheish.http.sse import STREAM_RESPONSE, Streams, event_cursor
from kheish.runs.ingress import Ingress
from kheish.runs.models import PruneReport, PruneRuns, RunEventEntry, RunPage, RunView, SubmitInput, SubmitRun
from kheish.runs.retention import Retention
from kheish.runs.service import RunControl, RunLedger
from kheish.sessions.models import SessionView
from kheish.sessions.service import Sessions
from kheish.store.feed import Feed

router = Router(tag="runs", prefix="/v1")

Ledger = Annotated[RunLedger, SERVICE]
Inbound = Annotated[Ingress, SERVICE]


@router.post(
    "/sessions/{session_id}/runs",
    status_code=202,
    response_model=RunView,
    responses=CHANGING,
    operation_id="submit_run",
)
async def submit(
    ingress: Inbound, session_id: str, body: SubmitRun, header: Annotated[str | None, Derived(header_key)]
) -> Response:
    """Queue a run and return at once."""
    key = agreed_key(header, body.idempotency_key)
    return json_response(await ingress.submit(session_id, body, key=key), 202)


@router.post("/sessions/{session_id}/input", response_model=SessionView, responses=CHANGING, operation_id="run_input")
async def run_input(
    ingress: Inbound,
    sessions: Annotated[Sessions, SERVICE],
    session_id: str,
    body: SubmitInput,
) -> Response:
    """Execute input on an idle session and return when it is done or waits for a human."""
    await ingress.run_inline(session_id, body)
    return json_response(await sessions.view(session_id))


@router.get("/runs", response_model=list[RunView] | RunPage, responses=READING, operation_id="list_runs")
async def list_runs(
    ledger: Ledger,
    pages: Annotated[Paging, Derived(paging)],
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


@router.get("/runs/{run_id}", response_model=RunView, responses=READING, operation_id="get_run")
async def get(ledger: Ledger, run_id: str) -> Response:
    """One run with its outputs."""
    return json_response(await ledger.view(run_id))


@router.get(
    "/runs/{run_id}/events",
    response_model=list[RunEventEntry],
    responses=READING,
    operation_id="get_run_events",
)
async def events(ledger: Ledger, run_id: str) -> Response:
    """What happened to the run, in order."""
    return json_response(await ledger.events(run_id))


@router.get(
    "/runs/{run_id}/stream",
    response_class=Response,
    responses={**READING, **STREAM_RESPONSE},
    operation_id="stream_run",
)
async def stream(
    ledger: Ledger,
    feed: Annotated[Feed, SERVICE],
    streams: Annotated[Streams, SERVICE],
    cursor: Annotated[int | None, Derived(event_cursor)],
    run_id: str,
) -> Response:
    """Server-sent events of one run."""
    await ledger.session_of(run_id)
    return streams.respond(feed.subscribe(cursor=cursor, run_id=run_id))


@router.post("/runs/{run_id}/cancel", response_model=RunView, responses=CHANGING, operation_id="cancel_run")
async def cancel(control: Annotated[RunControl, SERVICE], run_id: str) -> Response:
    """Stop the run. One that is over is returned as it is."""
    return json_response(await control.cancel(run_id))


@router.post("/runs/prune", response_model=PruneReport, responses=CHANGING, operation_id="prune_runs")
async def prune(retention: Annotated[Retention, SERVICE], body: PruneRuns) -> Response:
    """Delete debug evidence of runs that ended long ago. Runs, their events, journals and outputs stay."""
    return json_response(await retention.prune(body))
