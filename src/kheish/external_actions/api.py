"""HTTP of external actions."""

from __future__ import annotations

from typing import Annotated

from starlette.responses import Response

from kheish.external_actions.models import ExternalAction
from kheish.external_actions.service import ExternalActions
from kheish.http.api import Router
from kheish.http.arguments import SERVICE
from kheish.http.problems import READING
from kheish.http.responses import json_response

router = Router(tag="runs", prefix="/v1")


@router.get(
    "/runs/{run_id}/external-actions",
    response_model=list[ExternalAction],
    responses=READING,
    operation_id="get_run_external_actions",
)
async def of_run(actions: Annotated[ExternalActions, SERVICE], run_id: str) -> Response:
    """The signed records of what a run did outside of the daemon, verified before they are shown."""
    return json_response(await actions.of_run(run_id))
