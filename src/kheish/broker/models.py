"""Wire types of the credential broker. Nothing here is a secret."""

from __future__ import annotations

from typing import Literal

from kheish.http.responses import Described


class SubjectStatus(Described):
    """Who borrows, and what it has at the moment; a revoked subject borrows nothing any more."""

    subject_id: str
    current_epoch: int
    """How often it was revoked."""
    revoked: bool
    active_route_lease_ids: list[str] | None = None
    active_connector_lease_ids: list[str] | None = None
    active_mcp_lease_ids: list[str] | None = None


class RouteAudience(Described):
    """What a lease is good for."""

    type: Literal["route"]
    route_id: str
    slot_id: str


class Lease(Described):
    """One credential lent for a while. Times are Unix milliseconds."""

    id: str
    grant_id: str
    subject_id: str
    subject_epoch: int
    audience: RouteAudience
    issued_at_ms: int
    expires_at_ms: int


class LeaseStatus(Described):
    lease: Lease
    revoked: bool
    active: bool


class SlotRevoked(Described):
    slot_id: str
    revoked_leases: int
