"""Sessions that cannot go on, each with its reason; the others are not affected."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

from kheish.core.problems import Problem
from kheish.core.values import value_class


@value_class(frozen=True, kw_only=True, slots=True)
class Quarantined:
    """Why a session cannot go on, without the traceback: that would keep alive whatever it met on its way."""

    code: str
    message: str
    since_ms: int


class Quarantine:
    """A session leaves it as soon as its task has done its work again, so one that was repaired needs no restart."""

    def __init__(self) -> None:
        self._sessions: dict[str, Quarantined] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def add(self, session_id: str, problem: Problem, *, at_ms: int) -> None:
        """Say why the session stopped; the time stays that of the first stop."""
        known = self._sessions.get(session_id)
        since_ms = at_ms if known is None else known.since_ms
        self._sessions[session_id] = Quarantined(code=problem.code, message=problem.detail, since_ms=since_ms)

    def release(self, session_id: str) -> None:
        self._sessions.pop(session_id, None)

    def listed(self, limit: int) -> Mapping[str, Quarantined]:
        """The ``limit`` that have been there longest."""
        return dict(islice(self._sessions.items(), limit))
