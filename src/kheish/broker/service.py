"""Lends credentials to runs, and takes them back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from kheish.auth.broker import Broker, Lease
from kheish.auth.credential_scope import CredentialScope
from kheish.broker import store
from kheish.core.clock import Clock
from kheish.core.jsonvalue import JsonObject
from kheish.core.problems import Problem
from kheish.engine.entries import CredentialUse
from kheish.engine.state import RunState
from kheish.store.database import Database

_SESSION = "session:"


class SubjectNotFound(Problem):
    """Nobody by this name ever borrowed a credential."""

    domain, code, status = "auth", "subject_not_found", 404


class LeaseNotFound(Problem):
    """There is no such lease, or it has expired."""

    domain, code, status = "auth", "lease_not_found", 404


class SlotNotFound(Problem):
    """No route and no secret has this slot."""

    domain, code, status = "auth", "slot_not_found", 404


class Credentials:
    """The broker with its rows: what it decides counts at once and survives a restart."""

    def __init__(
        self,
        *,
        broker: Broker,
        database: Database,
        clock: Clock,
        scope_of: Callable[[str], Awaitable[CredentialScope]],
        slot_behind: Callable[[str], str],
        known_slots: Callable[[], frozenset[str]],
    ) -> None:
        """``scope_of`` finds a session's scope and raises a 404 `Problem` for an unknown one; ``slot_behind``
        finds a route's slot; ``known_slots`` are all slots of routes and secrets."""
        self._broker = broker
        self._database = database
        self._clock = clock
        self._scope_of = scope_of
        self._slot_behind = slot_behind
        self._known_slots = known_slots
        self._revoking = asyncio.Lock()

    async def borrow(self, run: RunState) -> CredentialUse:
        """Lend the credential of the run's route to the run's session.

        Raises:
            RouteBlocked: the session's credential scope excludes the route.
            CredentialRevoked: the session or the slot was revoked.
        """
        scope = await self._scope_of(run.session_id)
        route_id = run.route.route_id
        lease = self._broker.lend(_SESSION + run.session_id, scope, route_id, self._slot_behind(route_id))
        return CredentialUse(
            subject_id=lease.subject_id,
            grant_id=lease.grant_id,
            lease_id=lease.lease_id,
            slot_id=lease.slot_id,
            issued_at_ms=lease.issued_at_ms,
            expires_at_ms=lease.expires_at_ms,
            started_at_ms=self._clock.now_ms(),
            subject_epoch=lease.subject_epoch,
        )

    def require(self, use: CredentialUse) -> None:
        """Check a lease immediately before its credential goes out.

        Raises:
            CredentialRevoked: it does not count any more.
        """
        self._broker.require(use.lease_id)

    async def subject(self, subject_id: str) -> JsonObject:
        """SubjectStatus.

        Raises:
            SubjectNotFound: it is no session, and never borrowed anything.
        """
        await self._require_subject(subject_id)
        return self._subject(subject_id)

    async def revoke_subject(self, subject_id: str) -> JsonObject:
        """Block a subject for good; its next call fails.

        Raises:
            SubjectNotFound: as for `subject`.
            StoreUnavailable: it could not be made durable; nothing was revoked.
        """
        await self._require_subject(subject_id)
        async with self._revoking:
            with self._undone_on_failure():
                epoch = self._broker.revoke_subject(subject_id)
                await self._database.write(
                    lambda transaction: store.revoke_subject(transaction.connection, subject_id, epoch)
                )
        return self._subject(subject_id)

    def lease(self, lease_id: str) -> JsonObject:
        """LeaseStatus.

        Raises:
            LeaseNotFound: it is unknown or has expired.
        """
        return self._lease(self._found(lease_id))

    async def revoke_lease(self, lease_id: str) -> JsonObject:
        """End one lease; the next call borrows a new one.

        Raises:
            LeaseNotFound: it is unknown or has expired.
            StoreUnavailable: it could not be made durable; nothing was revoked.
        """
        async with self._revoking:
            lease = self._found(lease_id)
            with self._undone_on_failure(lease):
                ended = self._broker.revoke_lease(lease)
                await self._database.write(lambda transaction: store.revoke_lease(transaction.connection, ended))
        return self._lease(ended)

    async def revoke_slot(self, slot_id: str) -> JsonObject:
        """End every lease on a slot and block it until it is written again.

        Raises:
            SlotNotFound: there is no such slot.
            StoreUnavailable: it could not be made durable; nothing was revoked.
        """
        if slot_id not in self._known_slots():
            raise SlotNotFound(f"No route and no secret has the slot {slot_id!r}.")
        async with self._revoking:
            ended = len(self._broker.leases_of_slot(slot_id))
            with self._undone_on_failure():
                at_ms = self._broker.revoke_slot(slot_id)
                await self._database.write(
                    lambda transaction: store.revoke_slot(transaction.connection, slot_id, at_ms)
                )
        return {"slot_id": slot_id, "revoked_leases": ended}

    @contextmanager
    def _undone_on_failure(self, lease: Lease | None = None) -> Iterator[None]:
        saved = self._broker.revocations()
        try:
            yield
        except BaseException:
            self._broker.restore(saved, lease)
            raise

    async def _require_subject(self, subject_id: str) -> None:
        if self._broker.epoch(subject_id) or self._broker.active_leases(subject_id):
            return
        if await self._database.read(lambda reader: store.lent_to(reader, subject_id)):
            return
        if subject_id.startswith(_SESSION):
            await self._scope_of(subject_id.removeprefix(_SESSION))
            return
        raise SubjectNotFound(f"Nobody by the name {subject_id!r} ever borrowed a credential.")

    def _subject(self, subject_id: str) -> JsonObject:
        epoch = self._broker.epoch(subject_id)
        shown: JsonObject = {"subject_id": subject_id, "current_epoch": epoch, "revoked": epoch > 0}
        if leases := self._broker.active_leases(subject_id):
            shown["active_route_lease_ids"] = [lease.lease_id for lease in leases]
        return shown

    def _found(self, lease_id: str) -> Lease:
        lease = self._broker.find(lease_id)
        if lease is None:
            raise LeaseNotFound(f"There is no lease {lease_id!r}; one that expired is forgotten.")
        return lease

    def _lease(self, lease: Lease) -> JsonObject:
        return {"lease": lease.shown(), "revoked": self._broker.revoked(lease), "active": self._broker.active(lease)}
