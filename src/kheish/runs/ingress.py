"""Where runs come from: a request becomes a run in one commit, or nothing happens at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kheish.core.jsonvalue import JsonObject
from kheish.core.problems import Problem
from kheish.engine.engine import Engine
from kheish.engine.entries import InputAccepted
from kheish.engine.ports import Proposal
from kheish.engine.state import SessionState
from kheish.providers.routes import RouteInventory
from kheish.runs import store
from kheish.runs.acceptance import accept
from kheish.runs.idempotency import Also, IdempotencyKeys, keyed
from kheish.runs.models import SubmitInput
from kheish.runs.service import RunLedger, live_view
from kheish.sessions.service import Sessions
from kheish.store.database import Transaction

_ADDED = ("on_restart", "on_in_doubt")
"""Fields that are younger than the first keys."""


class SessionBusy(Problem):
    """The session has an active or queued run; use .../runs to queue behind it."""

    domain, code, status = "sessions", "session_busy", 409


class BindingKeyConflict(Problem):
    """A binding key belongs to another session."""

    domain, code, status = "sessions", "binding_key_conflict", 409


class Ingress:
    """Accepts input for sessions."""

    def __init__(
        self,
        *,
        engine: Engine,
        sessions: Sessions,
        ledger: RunLedger,
        keys: IdempotencyKeys,
        routes: Callable[[], RouteInventory],
        max_turns: int,
    ) -> None:
        self._engine = engine
        self._sessions = sessions
        self._ledger = ledger
        self._keys = keys
        self._routes = routes
        self._max_turns = max_turns

    async def submit(self, session_id: str, request: SubmitInput, *, key: str | None) -> dict[str, object]:
        """Queue a run and return its RunView at once; a used key returns the run it stands for.

        Raises:
            SessionNotFound: no session has the id.
            Problem: the request was refused; no run exists.
        """
        session = await self._sessions.record(session_id)
        asked = keyed(f"session:{session_id}", key, behaviour(request) if key is not None else None)

        async def attempt(claim: Callable[[str], Also]) -> dict[str, object]:
            accepted = accept(session, request, routes=self._routes(), max_turns=self._max_turns)
            run_id = self._engine.next_run_id()

            def rule(state: SessionState, now_ms: int) -> Sequence[Proposal]:
                return (Proposal(entry=accepted, run_id=run_id),)

            also = _with_bindings(claim(run_id), session_id, request)
            return live_view(await self._engine.transition(session_id, rule, also=also), run_id)

        return await self._keys.once(asked, attempt, self._ledger.view)

    async def run_inline(self, session_id: str, request: SubmitInput) -> None:
        """Execute input now and return once the run is over or waits for a human.

        Raises:
            SessionNotFound: no session has the id.
            SessionBusy: something is active or queued; no run was made.
            Problem: the request was refused; no run exists.
        """
        session = await self._sessions.record(session_id)
        accepted = accept(session, request, routes=self._routes(), max_turns=self._max_turns)
        run_id = self._engine.next_run_id()
        also = _with_bindings(None, session_id, request)
        await self._engine.transition(session_id, _when_idle(accepted, run_id), also=also)
        await self._engine.settled(session_id, run_id)


def _when_idle(accepted: InputAccepted, run_id: str) -> Callable[[SessionState, int], Sequence[Proposal]]:
    def rule(state: SessionState, now_ms: int) -> Sequence[Proposal]:
        if state.busy:
            raise SessionBusy
        return (Proposal(entry=accepted, run_id=run_id),)

    return rule


def _with_bindings(also: Also | None, session_id: str, request: SubmitInput) -> Also | None:
    keys = sorted({key.strip() for key in request.binding_keys if key.strip()})
    if not keys:
        return also

    def write(transaction: Transaction) -> None:
        if also is not None:
            also(transaction)
        for key in keys:
            if store.bind(transaction.connection, key, session_id) != session_id:
                raise BindingKeyConflict(f"The binding key {key!r} belongs to another session.")

    return write


def behaviour(request: SubmitInput) -> JsonObject:
    """The fields that make two requests the same or not."""
    # A request that says nothing of a field is the request it was before the field existed.
    unsaid = {name for name in _ADDED if getattr(request, name) is None}
    dumped: JsonObject = request.model_dump(mode="json", by_alias=True, exclude={"idempotency_key", *unsaid})
    return dumped
