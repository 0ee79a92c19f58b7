"""HTTP of external actions."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from kheish.external_actions.models import ExternalAction
from kheish.external_actions.service import ExternalActions
from kheish.http.bodies import JsonRoute
from kheish.http.problems import READING
from kheish.http.responses import json_response
from kheish.http.services import provided

router = APIRouter(prefix="/v1", tags=["runs"], route_class=JsonRoute)


@router.get(
    "/runs/{run_id:id}/external-actions",
    response_model=list[ExternalAction],
    responses=READING,
    operation_id="get_run_external_actions",
)
async def of_run(actions: Annotated[ExternalActions, Depends(provided(ExternalActions))], run_id: str) -> Response:
    """The signed records of what a run did outside of the daemon, verified before they are shown."""
    return json_response(await actions.of_run(run_id))
