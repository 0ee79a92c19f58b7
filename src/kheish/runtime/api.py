"""HTTP of the runtime configuration: parse, call the service, return."""

from __future__ import annotations

from typing import Annotated

from starlette.responses import Response

from kheish.http.api import Router
from kheish.http.arguments import SERVICE
from kheish.http.problems import CHANGING, READING
from kheish.http.responses import json_response
from kheish.runtime.models import (
    CheckPermission,
    Explanation,
    MatrixView,
    PermissionMatrix,
    RevisionView,
    RuntimeView,
    SetModel,
    SetPermissionMode,
    SetRoute,
    SetToolLimits,
    ToolLimits,
)
from kheish.runtime.permissions import PermissionChecks
from kheish.runtime.service import Runtime

router = Router(tag="runtime", prefix="/v1/runtime")

Service = Annotated[Runtime, SERVICE]
Checks = Annotated[PermissionChecks, SERVICE]


@router.get("", response_model=RuntimeView, responses=READING, operation_id="get_runtime")
async def get(runtime: Service) -> Response:
    """The settings in force."""
    return json_response(runtime.snapshot())


@router.get("/revisions", response_model=list[RevisionView], responses=READING, operation_id="list_runtime_revisions")
async def revisions(runtime: Service) -> Response:
    """Every kept revision, newest first."""
    return json_response(await runtime.revisions())


@router.post("/model", response_model=RuntimeView, responses=CHANGING, operation_id="set_runtime_model")
async def set_model(runtime: Service, body: SetModel) -> Response:
    """Choose the default route and model of later runs."""
    return json_response(await runtime.set_model(body.provider, body.model, expected_revision=body.expected_revision))


@router.post("/routes", response_model=RuntimeView, responses=CHANGING, operation_id="set_runtime_route")
async def set_route(runtime: Service, body: SetRoute) -> Response:
    """Add or replace a route without a restart, or remove one that was added; kept over restarts."""
    revision = body.expected_revision
    if body.route is None:
        return json_response(await runtime.remove_route(body.route_id, expected_revision=revision))
    changed = runtime.set_route(body.route_id, body.route, make_default=body.make_default, expected_revision=revision)
    return json_response(await changed)


@router.delete(
    "/routes/{route_id}", response_model=RuntimeView, responses=CHANGING, operation_id="remove_runtime_route"
)
async def remove_route(runtime: Service, route_id: str) -> Response:
    """Remove a route that was added; runs pinned to it fail at their next call."""
    return json_response(await runtime.remove_route(route_id, expected_revision=None))


@router.post("/permission-mode", response_model=RuntimeView, responses=CHANGING, operation_id="set_permission_mode")
async def set_permission_mode(runtime: Service, body: SetPermissionMode) -> Response:
    """Change how later tool calls are decided."""
    return json_response(await runtime.set_permission_mode(body.mode, expected_revision=body.expected_revision))


@router.get("/tool-limits", response_model=ToolLimits, responses=READING, operation_id="get_tool_limits")
async def get_tool_limits(runtime: Service) -> Response:
    """The limits of tool batches."""
    return json_response(runtime.tool_limits().to_json())


@router.post("/tool-limits", response_model=RuntimeView, responses=CHANGING, operation_id="set_tool_limits")
async def set_tool_limits(runtime: Service, body: SetToolLimits) -> Response:
    """Replace the limits of later tool batches."""
    return json_response(await runtime.set_tool_limits(body.limits, expected_revision=body.expected_revision))


@router.post("/permissions/check", response_model=Explanation, responses=CHANGING, operation_id="check_permission")
async def check(checks: Checks, body: CheckPermission) -> Response:
    """Explain what would be decided about a call; changes nothing."""
    return json_response(await checks.explain(body))


@router.post("/permissions/matrix", response_model=MatrixView, responses=CHANGING, operation_id="permission_matrix")
async def matrix(checks: Checks, body: PermissionMatrix | None = None) -> Response:
    """Every registered tool in every mode."""
    return json_response(await checks.matrix(None if body is None else body.session_id))
