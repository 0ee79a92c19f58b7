"""Wire types of external actions."""

from __future__ import annotations

from typing import Literal

from kheish.auth.audit_chain import Phase
from kheish.sessions.models import View


class ExternalAction(View):
    """One signed record: what the daemon was about to do outside of itself, or what came of it."""

    action_id: str
    timestamp_ms: int
    session_id: str | None = None
    agent_id: str | None = None
    run_id: str | None = None
    tool_call_id: str | None = None
    principal_id: str | None = None
    parent_principal_id: str | None = None
    grant_id: str | None = None
    phase: Phase
    kind: str
    """provider_call or tool_call."""
    target: str
    """`route:<route id>/<driver>` or `tool:<name>`."""
    request_digest: str | None = None
    response_digest: str | None = None
    outcome: str | None = None
    """succeeded, failed, interrupted or in_doubt; of a provider call `failed:<kind>` or `not_sent:<kind>`."""
    prev_hash: str | None = None
    record_hash: str
    signature_alg: Literal["ed25519"]
    key_id: str
    signature: str
