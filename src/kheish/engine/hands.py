"""What a session's worker is given: commands, and everything it works with."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from kheish.core.clock import Clock
from kheish.core.problems import Problem
from kheish.core.values import value_class
from kheish.engine.effects import ToolCaller
from kheish.engine.judge import Judge
from kheish.engine.model_calls import ModelCaller
from kheish.engine.ports import Also, Journal, Rule
from kheish.engine.state import SessionState
from kheish.tools.runtime import ToolRuntime


class Draining(Problem):
    """The daemon is shutting down and takes no new work."""

    domain, code, status = "readiness", "daemon_draining", 503


@dataclass(slots=True)
class Command:
    """A capability's rule on its way to the session's task."""

    rule: Rule
    also: Also | None
    done: asyncio.Future[SessionState]


class Host(Protocol):
    """What a worker tells the engine."""

    def changed(self, state: SessionState) -> None:
        """The session moved on durably."""
        ...

    def wake_at(self, session_id: str, due_ms: int | None, now_ms: int) -> None:
        """The session waits until ``due_ms``; for it, it is ``now_ms``."""
        ...


@value_class(frozen=True, kw_only=True, slots=True)
class Hands:
    """Everything a worker uses; shared by all workers."""

    journal: Journal
    judge: Judge
    models: ModelCaller
    tools: ToolCaller
    runtime: ToolRuntime
    clock: Clock
    host: Host
