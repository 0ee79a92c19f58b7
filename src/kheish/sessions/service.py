"""The rules of sessions. The only writer of the sessions table beside the projection."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Protocol

import orjson

from kheish.auth.credential_scope import CredentialScope, normalised
from kheish.core.clock import Clock
from kheish.core.ids import IdSource
from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.core.problems import BadRequest, Conflict, Problem
from kheish.core.values import value_class
from kheish.engine.engine import Engine
from kheish.engine.entries import Recorded, RunStatus, SessionEnded, StopRequested
from kheish.engine.ports import Journal, Proposal
from kheish.engine.state import SessionState
from kheish.http.paging import Paging, envelope
from kheish.sessions import store
from kheish.sessions.generation import wire
from kheish.sessions.models import CreateSession, ReplyTarget, RoutePolicy
from kheish.sessions.recent import SHOWN_OUTPUTS, RecentSessions
from kheish.sessions.replies import handles
from kheish.sessions.views import audits, materialised, policies, snapshot, summary
from kheish.store.database import Database, Transaction, one_snapshot
from kheish.store.feed import Feed

_RECENT_RECORDS = 1_024
"""Session records kept in memory: what each submission looks up."""
_MAX_ID_CHARS = 512
_MAX_UNPAGED = 10_000
"""A bare list stays within memory."""


class SessionNotFound(Problem):
    """No session has this id."""

    domain, code, status = "sessions", "session_not_found", 404

    def __init__(self, session_id: str) -> None:
        super().__init__(f"No session has the id {session_id!r}.")


class PersonasUnavailable(Problem):
    """This daemon has no personas yet: leave persona_id out."""

    domain, code, status = "personas", "personas_unavailable", 400


@value_class(frozen=True, kw_only=True, slots=True)
class SessionRecord:
    """What a submission needs to know of its session; changes only through `Sessions`."""

    session_id: str
    agent_id: str
    thread_id: str | None
    route_policy: RoutePolicy | None
    credential_scope: CredentialScope
    reply_targets: tuple[JsonObject, ...] | None
    """None: never set. Empty: cleared."""

    @classmethod
    def from_row(cls, row: sqlite3.Row) -> SessionRecord:
        """Read a row.

        Raises:
            SessionDamaged: it holds what no release wrote.
        """
        policy, scope, targets = row["route_policy"], row["credential_scope"], row["reply_targets"]
        try:
            return cls(
                session_id=row["session_id"],
                agent_id=row["agent_id"],
                thread_id=row["thread_id"],
                route_policy=None if policy is None else RoutePolicy.model_validate_json(policy),
                credential_scope=CredentialScope.of(None if scope is None else orjson.loads(scope)),
                reply_targets=None if targets is None else tuple(orjson.loads(targets)),
            )
        except (ValueError, TypeError) as error:
            raise store.SessionDamaged(row["session_id"]) from error


class RunFacts(Protocol):
    """What sessions show of their runs; implemented by the runs capability."""

    def pending(self, connection: sqlite3.Connection, session_id: str) -> tuple[str | None, str | None]:
        """Pending approvals and questions as stored JSON."""
        ...

    def outputs(self, connection: sqlite3.Connection, session_id: str, limit: int) -> Sequence[str]:
        """The newest outputs as stored JSON, oldest first."""
        ...

    async def session_events(self, session_id: str, journal: Sequence[Recorded]) -> Sequence[JsonObject]:
        """Run events of the whole session, in order."""
        ...


class Sessions:
    """Create, find, configure, interrupt and end sessions."""

    def __init__(
        self,
        *,
        database: Database,
        journal: Journal,
        engine: Engine,
        feed: Feed,
        runs: RunFacts,
        shown: RecentSessions,
        clock: Clock,
        ids: IdSource,
    ) -> None:
        self._database = database
        self._journal = journal
        self._engine = engine
        self._feed = feed
        self._runs = runs
        self._shown = shown
        self._clock = clock
        self._ids = ids
        self._recent: OrderedDict[str, SessionRecord] = OrderedDict()

    async def create(self, request: CreateSession) -> str:
        """Open a session and return its id; an existing id must agree with what is asked.

        Raises:
            BadRequest: the id is blank, `.`, `..` or too long.
            PersonasUnavailable: a new session asks for a persona.
            Conflict: the session exists with another persona or scope.
        """
        session_id = self._ids.new("session") if request.session_id is None else _checked_id(request.session_id)
        agent_id, now = self._ids.new("agent"), self._clock.now_ms()
        scopes = {
            "capability_scope": _normalised(request.capability_scope),
            "credential_scope": normalised(request.credential_scope),
        }

        def unit(transaction: Transaction) -> SessionRecord:
            row, created = store.create(
                transaction.connection,
                session_id=session_id,
                agent_id=agent_id,
                thread_id=request.thread_id,
                at_ms=now,
                **scopes,
            )
            if created:
                self._announce(transaction, row, request)
            else:
                _check_agreement(row, request, scopes)
            return SessionRecord.from_row(row)

        self._remember(await self._database.write(unit))
        return session_id

    async def record(self, session_id: str) -> SessionRecord:
        """Find a session.

        Raises:
            SessionNotFound: no session has the id.
        """
        known = self._recent.get(session_id)
        if known is not None:
            self._recent.move_to_end(session_id)
            return known
        row = await self._database.read(lambda reader: store.get(reader, session_id))
        if row is None:
            raise SessionNotFound(session_id)
        # A change that was committed while we read has the newer record in place already.
        return self._recent.get(session_id) or self._remember(SessionRecord.from_row(row))

    async def view(self, session_id: str) -> dict[str, object]:
        """SessionView.

        Raises:
            SessionNotFound: no session has the id.
        """

        known = self._shown.find(session_id)
        if known is not None and not known.waits:
            return _view(known.row, None, None, known.fragments())

        def query(reader: sqlite3.Connection) -> tuple[sqlite3.Row, str | None, str | None, Sequence[str]] | None:
            with one_snapshot(reader):
                row = store.get(reader, session_id)
                if row is None:
                    return None
                waits = row["pending_approvals"] or row["pending_questions"]
                pending = self._runs.pending(reader, session_id) if waits else (None, None)
                return row, *pending, self._runs.outputs(reader, session_id, SHOWN_OUTPUTS)

        with self._shown.reading(session_id) as keep:
            found = await self._database.read(query)
            if found is None:
                raise SessionNotFound(session_id)
            row, approvals, questions, outputs = found
            keep(row, outputs)
        return _view(dict(row), approvals, questions, list(map(orjson.Fragment, outputs)))

    async def list(self, paging: Paging, *, persona_id: str | None) -> object:
        """Summaries by session id: a bare list, or a page."""
        limit = paging.page_limit + 1 if paging.paged else paging.limit or _MAX_UNPAGED

        def query(reader: sqlite3.Connection) -> tuple[list[dict[str, object]], int]:
            rows = store.listed(reader, persona_id=persona_id, after=paging.cursor, limit=limit)
            total = store.count(reader, persona_id) if paging.paged else 0
            return [summary(row) for row in rows], total

        rows, total = await self._database.read(query)
        if not paging.paged:
            return rows
        return envelope(rows, paging=paging, total=total, order="session_id_asc", key=_session_key)

    async def count(self) -> int:
        """How many sessions there are."""
        return await self._database.read(store.count)

    async def sizes(self, *, threshold: int, limit: int) -> store.JournalSizes:
        """The sizes of all journals, with the ``limit`` largest by name; ``threshold`` in bytes."""
        return await self._database.read(partial(store.sizes, threshold=threshold, limit=limit))

    async def events(self, session_id: str) -> dict[str, object]:
        """The materialised session, its outputs and its run events.

        Raises:
            SessionNotFound: no session has the id.
            JournalDamaged: an entry of its journal cannot be read.
        """

        def query(reader: sqlite3.Connection) -> tuple[sqlite3.Row | None, Sequence[str]]:
            return store.get(reader, session_id), self._runs.outputs(reader, session_id, -1)

        row, outputs = await self._database.read(query)
        if row is None:
            raise SessionNotFound(session_id)
        journal = await self._journal.load(session_id)
        # Off the loop: a long journal takes a while to write out.
        session = await asyncio.to_thread(materialised, row, journal)
        found: dict[str, object] = {"session": session, "daemon_outputs": list(map(orjson.Fragment, outputs))}
        if run_events := await self._runs.session_events(session_id, journal):
            found["run_events"] = run_events
        return found

    async def audits(self, session_id: str) -> Sequence[JsonObject]:
        """Every permission decision of the session, in order.

        Raises:
            SessionNotFound: no session has the id.
            JournalDamaged: an entry of its journal cannot be read.
        """
        await self.record(session_id)
        return list(audits(await self._journal.load(session_id)))

    async def snapshot(self, session_id: str) -> object:
        """ManagedAgentSnapshot."""
        return (await self.view(session_id))["snapshot"]

    async def set_route_policy(self, session_id: str, policy: RoutePolicy | None) -> None:
        """Replace what later runs of the session use; queued and running ones keep their route."""
        stored = None if policy is None else route_policy_wire(policy)
        await self._change(
            session_id,
            lambda transaction: store.set_route_policy(
                transaction.connection, session_id, stored or None, self._clock.now_ms()
            ),
        )

    async def credential_scope(self, session_id: str) -> CredentialScope:
        """Which credentials the session may borrow.

        Raises:
            SessionNotFound: no session has the id.
        """
        return (await self.record(session_id)).credential_scope

    async def set_credential_scope(self, session_id: str, lists: Mapping[str, Sequence[str]] | None) -> None:
        """Replace which credentials the session may borrow, from its next model call on.

        Raises:
            BadRequest: a list or an entry is none of the scope's.
        """
        stored = normalised(lists)
        await self._change(
            session_id,
            lambda transaction: store.set_credential_scope(
                transaction.connection, session_id, stored, self._clock.now_ms()
            ),
        )

    async def set_reply_targets(self, session_id: str, targets: Sequence[ReplyTarget]) -> None:
        """Replace where later runs deliver to by default; an empty list clears it for good."""
        stored = handles(targets)
        await self._change(
            session_id,
            lambda transaction: store.set_reply_targets(
                transaction.connection, session_id, stored, self._clock.now_ms()
            ),
        )

    async def reply_targets(self, session_id: str) -> JsonObject:
        targets = (await self.record(session_id)).reply_targets
        return {"reply_targets": list(targets)} if targets else {}

    async def interrupt(self, session_id: str) -> bool:
        """Stop the active run; says whether there was one."""
        await self.record(session_id)
        stopped: list[str] = []

        def rule(state: SessionState, now_ms: int) -> Sequence[Proposal]:
            if state.active is None:
                return ()
            stopped.append(state.active.run_id)
            return _stop(state, (state.active.run_id,), RunStatus.INTERRUPTED)

        await self._engine.transition(session_id, rule)
        for run_id in stopped:
            await self._engine.stopped(session_id, run_id)
        return bool(stopped)

    async def end(self, session_id: str, reason: str | None) -> None:
        """Interrupt the active run and cancel the queued ones; the session stays usable."""
        await self.record(session_id)
        stopped: list[str] = []

        def rule(state: SessionState, now_ms: int) -> Sequence[Proposal]:
            active = () if state.active is None else (state.active.run_id,)
            queued = tuple(run.run_id for run in state.queue)
            stopped.extend((*active, *queued))
            return (
                Proposal(entry=SessionEnded(reason=reason)),
                *_stop(state, queued, RunStatus.CANCELLED),
                *_stop(state, active, RunStatus.INTERRUPTED),
            )

        await self._engine.transition(session_id, rule)
        for run_id in stopped:
            await self._engine.stopped(session_id, run_id)

    async def _change(self, session_id: str, write: _Write) -> None:
        await self.record(session_id)

        def unit(transaction: Transaction) -> SessionRecord:
            write(transaction)
            row = store.get(transaction.connection, session_id)
            assert row is not None
            return SessionRecord.from_row(row)

        changed = await self._database.write(unit)
        self._shown.forget(session_id)
        self._remember(changed)

    def _remember(self, record: SessionRecord) -> SessionRecord:
        self._recent[record.session_id] = record
        self._recent.move_to_end(record.session_id)
        while len(self._recent) > _RECENT_RECORDS:
            self._recent.popitem(last=False)
        return record

    def _announce(self, transaction: Transaction, row: sqlite3.Row, request: CreateSession) -> None:
        if request.persona_id is not None:
            raise PersonasUnavailable
        store.tell_state(self._feed, transaction, dict(row), None)


class _Write(Protocol):
    def __call__(self, transaction: Transaction, /) -> None: ...


def _view(
    row: Mapping[str, object], approvals: str | None, questions: str | None, outputs: Sequence[object]
) -> dict[str, object]:
    shown = policies(row)
    asked = None if questions is None else orjson.Fragment(questions)
    shown["snapshot"] = snapshot(row, orjson.Fragment(approvals or "[]"), asked)
    shown["outputs"] = outputs
    return shown


def route_policy_wire(policy: RoutePolicy) -> JsonObject:
    """The policy as stored and shown: only what is given."""
    found: JsonObject = {}
    if policy.provider is not None:
        found["provider"] = policy.provider
    if policy.generation is not None and (generation := wire(policy.generation)):
        found["generation"] = generation
    return found


def _stop(state: SessionState, run_ids: Sequence[str], status: RunStatus) -> tuple[Proposal, ...]:
    """Stop these live runs; one that is already being stopped keeps its first reason."""
    runs = (state.run(run_id) for run_id in run_ids)
    return tuple(
        Proposal(entry=StopRequested(status=status), run_id=run.run_id)
        for run in runs
        if run is not None and run.stop is None
    )


def _checked_id(session_id: str) -> str:
    if not session_id.strip() or session_id in (".", "..") or len(session_id) > _MAX_ID_CHARS:
        raise BadRequest(f"session_id must be 1 to {_MAX_ID_CHARS} characters, not blank, and neither . nor ..")
    return session_id


def _normalised(scope: Mapping[str, Sequence[str]] | None) -> JsonObject | None:
    """Trim, drop blanks, sort, dedupe; a list with `*` is `["*"]`; an empty scope is none."""
    if scope is None:
        return None
    found: JsonObject = {}
    for name, entries in scope.items():
        kept = sorted({entry.strip() for entry in entries if entry.strip()})
        values: list[JsonValue] = ["*"] if "*" in kept else [*kept]
        if values:
            found[name] = values
    return found or None


def _check_agreement(row: sqlite3.Row, request: CreateSession, scopes: Mapping[str, JsonObject | None]) -> None:
    if request.persona_id is not None and request.persona_id != row["persona_id"]:
        raise Conflict(f"The session {row['session_id']!r} exists with another persona_id.")
    for name, scope in scopes.items():
        stored = None if row[name] is None else orjson.loads(row[name])
        if getattr(request, name) is not None and scope != stored:
            raise Conflict(f"The session {row['session_id']!r} exists with another {name}.")


def _session_key(view: Mapping[str, object]) -> str:
    return str(view["session_id"])
