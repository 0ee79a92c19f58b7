"""What the engine needs from permissions."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

from kheish.core.values import value_class


class Behavior(StrEnum):
    ALLOW = "allow"
    DENY = "deny"
    ASK = "ask"


@value_class(frozen=True, kw_only=True, slots=True)
class Verdict:
    """One permission decision with everything the audit and a dry run show."""

    decision: Behavior
    base_decision: Behavior
    effective_mode: str
    scope: str
    mode_effect: str | None = None
    matched_rule: str | None = None
    matched_rule_origin: str | None = None
    reason: str | None = None


class Permissions(Protocol):
    """Decides one tool call; deciding changes nothing."""

    def decide(self, tool_name: str, *, session_id: str | None) -> Verdict: ...
