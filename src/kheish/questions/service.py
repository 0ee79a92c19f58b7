"""Answers, declines and cancellations of structured questions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

from kheish.core.jsonvalue import JsonObject
from kheish.engine.engine import Engine
from kheish.engine.entries import QuestionRequested, QuestionResolved, RunStatus
from kheish.engine.ports import Proposal
from kheish.engine.state import RunState, SessionState
from kheish.http.paging import Paging, sliced
from kheish.questions import rules
from kheish.questions.models import UserQuestionResolution
from kheish.questions.rules import QuestionExpired, QuestionStateConflict
from kheish.runs.idempotency import Also, IdempotencyKeys, keyed
from kheish.runs.service import RunLedger, RunStateConflict
from kheish.sessions.service import Sessions

ORDER = "session_id_asc,request_id_asc"

Rule = Callable[[RunState | None, int], Sequence[Proposal]]


class Questions:
    """Answers pending questions and lists them."""

    def __init__(self, *, engine: Engine, sessions: Sessions, ledger: RunLedger, keys: IdempotencyKeys) -> None:
        self._engine = engine
        self._sessions = sessions
        self._ledger = ledger
        self._keys = keys

    async def answer_run(
        self, run_id: str, resolution: UserQuestionResolution, *, key: str | None
    ) -> dict[str, object]:
        """Answer or decline the run's question and return the run, resumed.

        Raises:
            RunNotFound: no run has the id.
            Problem: the answer was refused; the run keeps waiting.
        """
        session_id = await self._ledger.session_of(run_id)

        async def attempt(claim: Callable[[str], Also]) -> dict[str, object]:
            try:
                return await self._answer(session_id, run_id, resolution, claim)
            except QuestionStateConflict:
                await self._raise_if_expired(run_id, resolution.request_id)
                raise

        asked = keyed(f"run:{run_id}", key, {"resolution": _wire(resolution)})
        return await self._keys.once(asked, attempt, self._ledger.view)

    async def answer_inline(self, session_id: str, resolution: UserQuestionResolution, *, key: str | None) -> None:
        """Answer the question of the session's active run; returns once the run is over or waits again.

        Raises:
            SessionNotFound: no session has the id.
            RunStateConflict: nothing is active.
            Problem: the answer was refused; the run keeps waiting.
        """
        await self._sessions.record(session_id)

        async def attempt(claim: Callable[[str], Also]) -> dict[str, object]:
            return await self._answer(session_id, None, resolution, claim)

        asked = keyed(f"session:{session_id}:questions", key, {"resolution": _wire(resolution)})
        view = await self._keys.once(asked, attempt, self._ledger.view)
        await self._engine.settled(session_id, str(view["run_id"]))

    async def cancel(
        self, run_id: str, request_id: str, *, justification: str | None, key: str | None
    ) -> dict[str, object]:
        """End the run because nobody will answer this request.

        Raises:
            RunNotFound: no run has the id.
            Problem: the request is not pending; the run keeps waiting.
        """
        session_id = await self._ledger.session_of(run_id)

        async def attempt(claim: Callable[[str], Also]) -> dict[str, object]:
            def rule(state: SessionState, now_ms: int) -> Sequence[Proposal]:
                return rules.cancel(state.run(run_id), request_id, now_ms)

            await self._engine.transition(session_id, rule, also=claim(run_id))
            await self._engine.stopped(session_id, run_id)
            return await self._ledger.view(run_id)

        asked = keyed(f"run:{run_id}", key, {"cancel": request_id, "justification": justification})
        return await self._keys.once(asked, attempt, self._ledger.view)

    async def list(self, paging: Paging, *, session_id: str | None = None) -> object:
        """PendingQuestionView of every waiting question."""
        rows = [
            {
                "session_id": run["session_id"],
                "agent_id": run["agent_id"],
                "run_id": run["run_id"],
                "run_kind": run["kind"],
                "request": request,
            }
            for run in await self._ledger.waiting(RunStatus.WAITING_FOR_USER_QUESTION)
            if session_id is None or run["session_id"] == session_id
            for request in cast("list[JsonObject]", run["questions"])
        ]
        return sliced(rows, paging=paging, order=ORDER, key=_key)

    async def list_of_session(self, paging: Paging, session_id: str) -> object:
        """The questions one session waits for.

        Raises:
            SessionNotFound: no session has the id.
        """
        await self._sessions.record(session_id)
        return await self.list(paging, session_id=session_id)

    async def _answer(
        self,
        session_id: str,
        run_id: str | None,
        resolution: UserQuestionResolution,
        claim: Callable[[str], Also],
    ) -> dict[str, object]:
        chosen: list[str] = []

        def rule(state: SessionState, now_ms: int) -> Sequence[Proposal]:
            if run_id is None and state.active is None:
                raise RunStateConflict("The session has no active run.")
            run = state.active if run_id is None else state.run(run_id)
            proposals = rules.answer(run, resolution, now_ms)
            assert run is not None
            chosen.append(run.run_id)
            return proposals

        await self._engine.transition(session_id, rule, also=lambda transaction: claim(chosen[-1])(transaction))
        return await self._ledger.view(chosen[-1])

    async def _raise_if_expired(self, run_id: str, request_id: str) -> None:
        """A late answer hears that its question expired, not just that nothing waits."""
        _, journal = await self._ledger.journal_of(run_id)
        expires: object = None
        for recorded in journal:
            match recorded.entry:
                case QuestionRequested(request=request) if request["id"] == request_id:
                    expires = request.get("expires_at_ms")
                case QuestionResolved(resolution=resolution) if resolution["request_id"] == request_id:
                    return
        if isinstance(expires, int) and expires <= journal[-1].at_ms:
            raise QuestionExpired(f"The question request {request_id!r} expired at {expires}.")


def _wire(resolution: UserQuestionResolution) -> JsonObject:
    dumped: JsonObject = resolution.model_dump(mode="json")
    return dumped


def _key(row: Mapping[str, object]) -> str:
    request = cast("JsonObject", row["request"])
    return f"{row['session_id']}:{request['id']}"
