"""The rules of approvals: a batch resolves pending requests of one run, as a whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from kheish.approvals.models import ApprovalResolution
from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.core.problems import Problem
from kheish.engine.engine import Engine
from kheish.engine.entries import ApprovalsResolved, RunStatus
from kheish.engine.ports import Proposal
from kheish.engine.state import RunState, SessionState
from kheish.http.paging import Paging, sliced
from kheish.runs.idempotency import Also, IdempotencyKeys, keyed
from kheish.runs.service import RunLedger, RunStateConflict
from kheish.sessions.service import Sessions

ORDER = "session_id_asc,request_id_asc"


class BatchEmpty(Problem):
    """Give at least one resolution."""

    domain, code, status = "approvals", "approval_batch_empty", 400


class DuplicateResolution(Problem):
    """A request is resolved twice in this batch."""

    domain, code, status = "approvals", "approval_duplicate_resolution", 400


class RequestNotPending(Problem):
    """No such request is pending on this run."""

    domain, code, status = "approvals", "approval_request_not_pending", 400


class ApprovalStateConflict(Problem):
    """The run does not wait for an approval."""

    domain, code, status = "approvals", "approval_state_conflict", 409


def check_batch(resolutions: Sequence[ApprovalResolution]) -> None:
    """Refuse what no state could make right.

    Raises:
        BatchEmpty, DuplicateResolution: the batch itself is wrong.
    """
    if not resolutions:
        raise BatchEmpty
    ids = [resolution.request_id for resolution in resolutions]
    if len(set(ids)) != len(ids):
        raise DuplicateResolution


def resolve(run: RunState | None, resolutions: Sequence[ApprovalResolution]) -> ApprovalsResolved:
    """Accept a batch for ``run``; a subset of what is pending is enough. Pure.

    Raises:
        ApprovalStateConflict: the run does not wait for an approval.
        RequestNotPending: an id is unknown or resolved already.
    """
    if run is None or run.status is not RunStatus.WAITING_FOR_APPROVAL or run.stop is not None:
        raise ApprovalStateConflict
    pending = {request["id"] for request in run.pending_approvals}
    for resolution in resolutions:
        if resolution.request_id not in pending:
            raise RequestNotPending(f"No request {resolution.request_id!r} is pending on {run.run_id}.")
    return ApprovalsResolved(resolutions=tuple(_wire(resolution) for resolution in resolutions))


def _wire(resolution: ApprovalResolution) -> JsonObject:
    dumped: JsonObject = resolution.model_dump(mode="json", exclude_none=True)
    return dumped


class Approvals:
    """Resolves pending approvals and lists them."""

    def __init__(self, *, engine: Engine, sessions: Sessions, ledger: RunLedger, keys: IdempotencyKeys) -> None:
        self._engine = engine
        self._sessions = sessions
        self._ledger = ledger
        self._keys = keys

    async def resolve_run(
        self, run_id: str, resolutions: Sequence[ApprovalResolution], *, key: str | None
    ) -> dict[str, object]:
        """Resolve requests of this run and return it, resumed or still waiting for the rest.

        Raises:
            RunNotFound: no run has the id.
            Problem: the batch was refused; nothing was resolved.
        """
        check_batch(resolutions)
        session_id = await self._ledger.session_of(run_id)
        return await self._resolve(session_id, f"run:{run_id}", lambda _: run_id, resolutions, key)

    async def resolve_session(
        self, session_id: str, resolutions: Sequence[ApprovalResolution], *, key: str | None
    ) -> dict[str, object]:
        """Resolve requests of the session's active run.

        Raises:
            SessionNotFound: no session has the id.
            RunStateConflict: nothing is active.
            Problem: the batch was refused; nothing was resolved.
        """
        check_batch(resolutions)
        await self._sessions.record(session_id)
        return await self._resolve(session_id, f"session:{session_id}:approvals", _active, resolutions, key)

    async def resolve_inline(
        self, session_id: str, resolutions: Sequence[ApprovalResolution], *, key: str | None
    ) -> None:
        """Like `resolve_session`; returns once the run is over or waits again."""
        view = await self.resolve_session(session_id, resolutions, key=key)
        await self._engine.settled(session_id, str(view["run_id"]))

    async def list(self, paging: Paging, *, session_id: str | None = None) -> object:
        """Every pending approval, by session and request id."""
        rows = [
            {**_owner(run), "request": request}
            for run in await self._ledger.waiting(RunStatus.WAITING_FOR_APPROVAL)
            if session_id is None or run["session_id"] == session_id
            for request in _requests(run)
        ]
        return sliced(rows, paging=paging, order=ORDER, key=_key)

    async def list_of_session(self, paging: Paging, session_id: str) -> object:
        """The approvals one session waits for.

        Raises:
            SessionNotFound: no session has the id.
        """
        await self._sessions.record(session_id)
        return await self.list(paging, session_id=session_id)

    async def _resolve(
        self,
        session_id: str,
        scope: str,
        target: Callable[[SessionState], str],
        resolutions: Sequence[ApprovalResolution],
        key: str | None,
    ) -> dict[str, object]:
        payload: list[JsonValue] = [_wire(resolution) for resolution in resolutions]

        async def attempt(claim: Callable[[str], Also]) -> dict[str, object]:
            chosen: list[str] = []

            def rule(state: SessionState, now_ms: int) -> Sequence[Proposal]:
                run_id = target(state)
                entry = resolve(state.run(run_id), resolutions)
                chosen.append(run_id)
                return (Proposal(entry=entry, run_id=run_id),)

            await self._engine.transition(session_id, rule, also=lambda transaction: claim(chosen[-1])(transaction))
            return await self._ledger.view(chosen[-1])

        asked = keyed(scope, key, {"resolutions": payload})
        return await self._keys.once(asked, attempt, self._ledger.view)


def _active(state: SessionState) -> str:
    if state.active is None:
        raise RunStateConflict("The session has no active run.")
    return state.active.run_id


def _owner(run: Mapping[str, object]) -> dict[str, object]:
    owner = {name: run[name] for name in ("session_id", "agent_id", "run_id")}
    return {**owner, "run_kind": run["kind"]}


def _requests(run: Mapping[str, object]) -> list[JsonObject]:
    found = run["approvals"]
    return found if isinstance(found, list) else []


def _key(row: Mapping[str, object]) -> str:
    request = row["request"]
    assert isinstance(request, dict)
    return f"{row['session_id']}:{request['id']}"
