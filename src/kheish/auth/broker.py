"""Who borrows which credential for how long, and what is revoked. In memory; nothing here is a secret."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache

from kheish.auth.credential_scope import CredentialScope
from kheish.core.clock import Clock
from kheish.core.jsonvalue import JsonObject, encode
from kheish.core.problems import Problem
from kheish.core.values import value_class

ROUTE_LEASE_MS = 60_000
_REUSED_MS = ROUTE_LEASE_MS // 2
"""A lease is used for another call while this much of it is left: none ends between borrowing and sending."""
_INLINE = "inline-route:"


class RouteBlocked(Problem):
    """The credential scope of the session does not let it use this route."""

    domain, code, status = "auth", "route_blocked", 403


class CredentialRevoked(Problem):
    """Whoever asks, or what is asked for, was revoked."""

    domain, code, status = "auth", "credential_revoked", 403


def slot_of(route_id: str, auth_ref: str | None) -> str:
    """The slot behind a route; one whose key is not in the secret store has a slot in name only."""
    return f"{_INLINE}{route_id}" if auth_ref is None else auth_ref


@value_class(frozen=True, kw_only=True, slots=True)
class Lease:
    """What one subject borrowed of one slot for one route."""

    lease_id: str
    grant_id: str
    subject_id: str
    subject_epoch: int
    route_id: str
    slot_id: str
    issued_at_ms: int
    expires_at_ms: int
    revoked: bool = False

    def shown(self) -> JsonObject:
        """The Lease of the wire contract."""
        return {
            "id": self.lease_id,
            "grant_id": self.grant_id,
            "subject_id": self.subject_id,
            "subject_epoch": self.subject_epoch,
            "audience": {"type": "route", "route_id": self.route_id, "slot_id": self.slot_id},
            "issued_at_ms": self.issued_at_ms,
            "expires_at_ms": self.expires_at_ms,
        }


@value_class(frozen=True, kw_only=True, slots=True)
class Revocations:
    """What the rows say is revoked: subjects with their epoch, slots with the time of it."""

    subjects: dict[str, int]
    slots: dict[str, int]


class Broker:
    """Lends credentials. One owner: the event loop."""

    def __init__(
        self,
        *,
        clock: Clock,
        written_at: Callable[[str], int | None],
        revocations: Revocations | None = None,
        leases: Iterable[Lease] = (),
    ) -> None:
        """``written_at`` says when a slot of the secret store was last written; None: the store has no such slot."""
        self._clock = clock
        self._written_at = written_at
        known = revocations or Revocations(subjects={}, slots={})
        self._epochs = dict(known.subjects)
        self._slots = dict(known.slots)
        self._leases = {lease.lease_id: lease for lease in sorted(leases, key=_expiry)}
        """In the order they expire."""
        self._current = {lease.grant_id: lease for lease in self._leases.values()}

    def lend(self, subject_id: str, scope: CredentialScope, route_id: str, slot_id: str) -> Lease:
        """Return the subject's lease on a route's credential, a new one when it has none that counts.

        Raises:
            RouteBlocked: the scope does not let the subject use the route.
            CredentialRevoked: the subject or the slot is revoked.
        """
        if not scope.lets_route(route_id):
            raise RouteBlocked(f"The credential scope of {subject_id} blocks the route {route_id!r}.")
        self._require(subject_id, slot_id)
        self._forget_expired()
        grant_id = _grant_id(subject_id, scope, route_id, slot_id)
        held = self._current.get(grant_id)
        now = self._clock.now_ms()
        if held is not None and held.expires_at_ms - now > _REUSED_MS and self.active(held):
            return held
        # Later than whatever ended earlier leases of the slot in this millisecond.
        now = max(now, self._ended_at(slot_id) + 1)
        lease = Lease(
            lease_id=_digest(secrets.token_bytes(32)),
            grant_id=grant_id,
            subject_id=subject_id,
            subject_epoch=self._epochs.get(subject_id, 0),
            route_id=route_id,
            slot_id=slot_id,
            issued_at_ms=now,
            expires_at_ms=now + ROUTE_LEASE_MS,
        )
        self._leases[lease.lease_id] = self._current[grant_id] = lease
        return lease

    def require(self, lease_id: str) -> None:
        """Check once more, immediately before the credential is used.

        Raises:
            CredentialRevoked: the lease does not count any more.
        """
        lease = self._leases.get(lease_id)
        if lease is not None:
            self._require(lease.subject_id, lease.slot_id)
        if lease is None or not self.active(lease):
            raise CredentialRevoked(f"The credential lease {lease_id} was revoked or has expired.")

    def active(self, lease: Lease) -> bool:
        """Whether the credential may be used with this lease now."""
        return not self.revoked(lease) and self._clock.now_ms() < lease.expires_at_ms

    def revoked(self, lease: Lease) -> bool:
        """Whether the lease, its subject or its slot was revoked or rotated since it was issued."""
        if lease.revoked or self._epochs.get(lease.subject_id, 0) != lease.subject_epoch:
            return True
        # A slot that is gone from the store has no credential to use.
        missing = not lease.slot_id.startswith(_INLINE) and self._written_at(lease.slot_id) is None
        return missing or self._ended_at(lease.slot_id) >= lease.issued_at_ms

    def active_leases(self, subject_id: str) -> list[Lease]:
        """The leases the subject can use now, by id."""
        held = (lease for lease in self._leases.values() if lease.subject_id == subject_id and self.active(lease))
        return sorted(held, key=lambda lease: lease.lease_id)

    def leases_of_slot(self, slot_id: str) -> list[Lease]:
        """The leases on a slot that can be used now."""
        return [lease for lease in self._leases.values() if lease.slot_id == slot_id and self.active(lease)]

    def find(self, lease_id: str) -> Lease | None:
        """A lease that has not expired."""
        self._forget_expired()
        return self._leases.get(lease_id)

    def epoch(self, subject_id: str) -> int:
        """How often the subject was revoked."""
        return self._epochs.get(subject_id, 0)

    def revoke_subject(self, subject_id: str) -> int:
        """Block a subject for good and end its leases; returns its new epoch."""
        self._epochs[subject_id] = self.epoch(subject_id) + 1
        return self._epochs[subject_id]

    def revoke_slot(self, slot_id: str) -> int:
        """End the leases on a slot and block it until it is written again; returns the time of it."""
        issued = [lease.issued_at_ms for lease in self._leases.values() if lease.slot_id == slot_id]
        self._slots[slot_id] = max(self._clock.now_ms(), self._ended_at(slot_id), *issued)
        return self._slots[slot_id]

    def revoke_lease(self, lease: Lease) -> Lease:
        """End one lease."""
        ended = replace(lease, revoked=True)
        self._keep(ended)
        return ended

    def restore(self, saved: Revocations, lease: Lease | None = None) -> None:
        """Take back a revocation that could not be made durable."""
        self._epochs, self._slots = dict(saved.subjects), dict(saved.slots)
        if lease is not None:
            self._keep(lease)

    def revocations(self) -> Revocations:
        """What is revoked now."""
        return Revocations(subjects=dict(self._epochs), slots=dict(self._slots))

    def revoked_at(self, slot_id: str) -> int:
        """When the slot was last revoked, in Unix milliseconds; a write counts from the next one on."""
        return self._slots.get(slot_id, -1)

    def _keep(self, lease: Lease) -> None:
        self._leases[lease.lease_id] = lease
        if (current := self._current.get(lease.grant_id)) is not None and current.lease_id == lease.lease_id:
            self._current[lease.grant_id] = lease

    def _require(self, subject_id: str, slot_id: str) -> None:
        if self.epoch(subject_id):
            raise CredentialRevoked(f"{subject_id} was revoked: it borrows no credential any more.")
        if slot_id in self._slots and self._slots[slot_id] >= (self._written_at(slot_id) or 0):
            raise CredentialRevoked(f"The credential slot {slot_id!r} was revoked; {_way_back(slot_id)}.")

    def _ended_at(self, slot_id: str) -> int:
        return max(self._slots.get(slot_id, -1), self._written_at(slot_id) or -1)

    def _forget_expired(self) -> None:
        now = self._clock.now_ms()
        while self._leases:
            lease = next(iter(self._leases.values()))
            if now < lease.expires_at_ms:
                return
            del self._leases[lease.lease_id]
            if self._current[lease.grant_id].lease_id == lease.lease_id:
                del self._current[lease.grant_id]


def _way_back(slot_id: str) -> str:
    if slot_id.startswith(_INLINE):
        return "give the route a key of the secret store with auth_ref"
    return f"`kheish-daemon secrets set {slot_id}` with another key brings it back"


def _expiry(lease: Lease) -> int:
    return lease.expires_at_ms


@lru_cache(maxsize=256)
def _grant_id(subject_id: str, scope: CredentialScope, route_id: str, slot_id: str) -> str:
    lists = (scope.route_allow, scope.route_deny)
    return _digest(encode([subject_id, route_id, slot_id, *(sorted(names) for names in lists)]))


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
