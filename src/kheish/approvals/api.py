"""HTTP of approvals: parse, call the service, return."""

from __future__ import annotations

from typing import Annotated

from starlette.responses import Response

from kheish.approvals.models import ApprovalPage, PendingApprovalView, ResolveApprovals
from kheish.approvals.service import Approvals
from kheish.http.api import Router
from kheish.http.arguments import SERVICE, Derived, Query
from kheish.http.idempotency import agreed_key, header_key
from kheish.http.paging import Paging, paging
from kheish.http.problems import CHANGING, READING
from kheish.http.responses import json_response
from kheish.runs.models import RunView
from kheish.sessions.models import SessionView
from kheish.sessions.service import Sessions

router = Router(tag="approvals", prefix="/v1")

Service = Annotated[Approvals, SERVICE]
Key = Annotated[str | None, Derived(header_key)]
Pages = Annotated[Paging, Derived(paging)]


@router.get(
    "/approvals",
    response_model=list[PendingApprovalView] | ApprovalPage,
    responses=READING,
    operation_id="list_approvals",
)
async def list_approvals(
    approvals: Service, pages: Pages, session_id: Annotated[str | None, Query()] = None
) -> Response:
    """Every approval that waits for a human."""
    return json_response(await approvals.list(pages, session_id=session_id))


@router.get(
    "/sessions/{session_id}/approvals",
    response_model=list[PendingApprovalView] | ApprovalPage,
    responses=READING,
    operation_id="list_session_approvals",
)
async def list_session_approvals(approvals: Service, pages: Pages, session_id: str) -> Response:
    """The approvals this session waits for."""
    return json_response(await approvals.list_of_session(pages, session_id))


@router.post(
    "/sessions/{session_id}/approvals",
    response_model=SessionView,
    responses=CHANGING,
    operation_id="resolve_session_approvals",
)
async def resolve_inline(
    approvals: Service,
    sessions: Annotated[Sessions, SERVICE],
    session_id: str,
    body: ResolveApprovals,
    header: Key,
) -> Response:
    """Resolve the active run's approvals and return when the run is over or waits again."""
    key = agreed_key(header, body.idempotency_key)
    await approvals.resolve_inline(session_id, body.resolutions, key=key)
    return json_response(await sessions.view(session_id))


@router.post(
    "/sessions/{session_id}/approval-runs",
    status_code=202,
    response_model=RunView,
    responses=CHANGING,
    operation_id="resolve_session_approvals_detached",
)
async def resolve_session(approvals: Service, session_id: str, body: ResolveApprovals, header: Key) -> Response:
    """Resolve the active run's approvals and return at once."""
    key = agreed_key(header, body.idempotency_key)
    return json_response(await approvals.resolve_session(session_id, body.resolutions, key=key), 202)


@router.post(
    "/runs/{run_id}/approvals",
    status_code=202,
    response_model=RunView,
    responses=CHANGING,
    operation_id="resolve_run_approvals",
)
async def resolve_run(approvals: Service, run_id: str, body: ResolveApprovals, header: Key) -> Response:
    """Resolve approvals of exactly this run and return at once."""
    key = agreed_key(header, body.idempotency_key)
    return json_response(await approvals.resolve_run(run_id, body.resolutions, key=key), 202)
