"""HTTP of the credential broker: parse, call the service, return."""

from __future__ import annotations

from typing import Annotated

from starlette.responses import Response

from kheish.broker.models import LeaseStatus, SlotRevoked, SubjectStatus
from kheish.broker.service import Credentials
from kheish.http.api import Router
from kheish.http.arguments import SERVICE
from kheish.http.problems import CHANGING, READING
from kheish.http.responses import json_response

router = Router(tag="credentials", prefix="/v1/runtime/auth")

Service = Annotated[Credentials, SERVICE]


@router.get("/subjects/{subject_id}", response_model=SubjectStatus, responses=READING, operation_id="get_auth_subject")
async def subject(credentials: Service, subject_id: str) -> Response:
    """What a subject, such as `session:demo`, has borrowed."""
    return json_response(await credentials.subject(subject_id))


@router.post(
    "/subjects/{subject_id}/revoke",
    response_model=SubjectStatus,
    responses=CHANGING,
    operation_id="revoke_auth_subject",
)
async def revoke_subject(credentials: Service, subject_id: str) -> Response:
    """Block a subject for good: its next model call fails."""
    return json_response(await credentials.revoke_subject(subject_id))


@router.get("/leases/{lease_id}", response_model=LeaseStatus, responses=READING, operation_id="get_auth_lease")
async def lease(credentials: Service, lease_id: str) -> Response:
    """One lease that has not expired."""
    return json_response(credentials.lease(lease_id))


@router.post(
    "/leases/{lease_id}/revoke", response_model=LeaseStatus, responses=CHANGING, operation_id="revoke_auth_lease"
)
async def revoke_lease(credentials: Service, lease_id: str) -> Response:
    """End one lease."""
    return json_response(await credentials.revoke_lease(lease_id))


@router.post("/slots/{slot_id}/revoke", response_model=SlotRevoked, responses=CHANGING, operation_id="revoke_auth_slot")
async def revoke_slot(credentials: Service, slot_id: str) -> Response:
    """End every lease on a slot and block it until it is written again."""
    return json_response(await credentials.revoke_slot(slot_id))
