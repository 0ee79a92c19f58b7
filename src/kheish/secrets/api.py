"""HTTP of secrets: parse, call the service, return."""

from __future__ import annotations

from typing import Annotated

from starlette.responses import Response

from kheish.http.api import Router
from kheish.http.arguments import SERVICE
from kheish.http.problems import CHANGING, READING
from kheish.http.responses import json_response
from kheish.secrets.models import Accepted, SetSecret, SlotStatus
from kheish.secrets.service import Secrets

router = Router(tag="secrets", prefix="/v1/runtime/secrets")

Service = Annotated[Secrets, SERVICE]


@router.get("", response_model=list[SlotStatus], responses=READING, operation_id="list_secrets")
async def list_(secrets: Service) -> Response:
    """What is kept, never the secrets themselves."""
    return json_response(secrets.list())


@router.post("", response_model=SlotStatus, responses=CHANGING, operation_id="set_secret")
async def set_(secrets: Service, body: SetSecret) -> Response:
    """Create a slot, or rotate it: the next model call uses the new secret."""
    return json_response(await secrets.set(body.model_dump()))


@router.get("/{ref}", response_model=SlotStatus, responses=READING, operation_id="get_secret")
async def get(secrets: Service, ref: str) -> Response:
    """One slot's status."""
    return json_response(secrets.get(ref))


@router.delete("/{ref}", response_model=Accepted, responses=CHANGING, operation_id="delete_secret")
async def delete(secrets: Service, ref: str) -> Response:
    """Remove a slot; what needs it fails from the next call on."""
    return json_response({"accepted": await secrets.delete(ref)})
