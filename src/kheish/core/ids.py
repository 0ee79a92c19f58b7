"""Identifiers. Runs are numbered; everything else is random and opaque."""

from __future__ import annotations

import secrets
from typing import NewType, Protocol

SessionId = NewType("SessionId", str)
RunId = NewType("RunId", str)
AgentId = NewType("AgentId", str)
CallId = NewType("CallId", str)


class IdSource(Protocol):
    """Where new ids come from; tests inject a counting one."""

    def new(self, prefix: str) -> str:
        """Return a fresh id that starts with ``prefix`` and a hyphen."""
        ...


class RandomIds:
    """Ids with 80 random bits: unique without asking anyone."""

    def new(self, prefix: str) -> str:
        return f"{prefix}-{secrets.token_hex(10)}"
