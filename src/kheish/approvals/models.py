"""Wire types of approvals."""

from __future__ import annotations

from typing import Literal

from pydantic import JsonValue

from kheish.http.requests import Asked
from kheish.sessions.models import ApprovalRequest, Pagination, View


class ApprovalResolution(Asked):
    """What a human decided about one request."""

    request_id: str
    behavior: Literal["allow", "deny"]
    updated_input: dict[str, JsonValue] | None = None
    """Executed instead of the model's input."""
    justification: str | None = None
    reason: str | None = None
    """What the model reads when the call is denied."""


class ResolveApprovals(Asked):
    """One batch: all of it is accepted, or nothing."""

    idempotency_key: str | None = None
    resolutions: list[ApprovalResolution]


class PendingApprovalView(View):
    session_id: str
    agent_id: str
    run_id: str
    run_kind: str
    request: ApprovalRequest


class ApprovalPage(View):
    items: list[PendingApprovalView]
    pagination: Pagination
