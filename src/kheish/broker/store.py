"""SQL of grants, leases and revocations."""

from __future__ import annotations

import sqlite3

from kheish.auth.broker import Lease, Revocations
from kheish.engine import entries as e
from kheish.engine.ports import Transition
from kheish.store.database import Transaction
from kheish.store.remembered import Remembered

_GRANT = """
INSERT INTO credential_grants (grant_id, subject_id, session_id, route_id, slot_id, issued_at_ms)
VALUES (:grant_id, :subject_id, :session_id, :route_id, :slot_id, :issued_at_ms)
ON CONFLICT (grant_id) DO NOTHING
"""
_LEASE = """
INSERT INTO credential_leases (lease_id, grant_id, subject_id, subject_epoch, route_id, slot_id, issued_at_ms,
                               expires_at_ms, revoked)
VALUES (:lease_id, :grant_id, :subject_id, :subject_epoch, :route_id, :slot_id, :issued_at_ms, :expires_at_ms, :revoked)
ON CONFLICT (lease_id) DO UPDATE SET revoked = MAX(credential_leases.revoked, excluded.revoked)
"""
_FORGET_EXPIRED = "DELETE FROM credential_leases WHERE expires_at_ms <= :now_ms"
_LEASES = "SELECT * FROM credential_leases WHERE expires_at_ms > :now_ms"
_LENT_TO = "SELECT 1 FROM credential_grants WHERE subject_id = :subject_id LIMIT 1"
_SUBJECTS = "SELECT subject_id, epoch FROM revoked_subjects"
_SLOTS = "SELECT slot_id, at_ms FROM revoked_slots"
_REVOKE_SUBJECT = """
INSERT INTO revoked_subjects (subject_id, epoch) VALUES (:subject_id, :epoch)
ON CONFLICT (subject_id) DO UPDATE SET epoch = excluded.epoch
"""
_REVOKE_SLOT = """
INSERT INTO revoked_slots (slot_id, at_ms) VALUES (:slot_id, :at_ms)
ON CONFLICT (slot_id) DO UPDATE SET at_ms = excluded.at_ms
"""


_KNOWN_LEASES = 1024
"""A lease serves the calls of half a minute: its row is written with the first of them."""


class CredentialsProjection:
    """Keeps who borrowed what in the commit that records the call."""

    def __init__(self) -> None:
        self._written: Remembered[bool] = Remembered(_KNOWN_LEASES)
        """Recent leases whose rows are durable."""

    def apply(self, transaction: Transaction, transition: Transition) -> None:
        for recorded in transition.entries:
            entry = recorded.entry
            use = entry.access if isinstance(entry, e.MODEL_CALLS) else None
            if use is None or self._written.find(transaction, use.lease_id):
                continue
            route = next((run.route.route_id for run in transition.runs if run.run_id == recorded.run_id), "")
            fields = {
                "grant_id": use.grant_id,
                "lease_id": use.lease_id,
                "subject_id": use.subject_id,
                "subject_epoch": use.subject_epoch,
                "session_id": transition.session_id,
                "route_id": route,
                "slot_id": use.slot_id,
                "issued_at_ms": use.issued_at_ms,
                "expires_at_ms": use.expires_at_ms,
                "revoked": 0,
            }
            connection = transaction.connection
            connection.execute(_GRANT, fields)
            connection.execute(_LEASE, fields)
            connection.execute(_FORGET_EXPIRED, {"now_ms": use.started_at_ms})
            self._written.keep(transaction, use.lease_id, True)


def revocations(connection: sqlite3.Connection) -> Revocations:
    """Everything that is revoked."""
    return Revocations(
        subjects={row["subject_id"]: row["epoch"] for row in connection.execute(_SUBJECTS)},
        slots={row["slot_id"]: row["at_ms"] for row in connection.execute(_SLOTS)},
    )


def leases(connection: sqlite3.Connection, now_ms: int) -> list[Lease]:
    """The leases that have not expired."""
    return [_lease(row) for row in connection.execute(_LEASES, {"now_ms": now_ms})]


def lent_to(connection: sqlite3.Connection, subject_id: str) -> bool:
    """Whether the subject ever borrowed anything."""
    return connection.execute(_LENT_TO, {"subject_id": subject_id}).fetchone() is not None


def revoke_subject(connection: sqlite3.Connection, subject_id: str, epoch: int) -> None:
    connection.execute(_REVOKE_SUBJECT, {"subject_id": subject_id, "epoch": epoch})


def revoke_slot(connection: sqlite3.Connection, slot_id: str, at_ms: int) -> None:
    connection.execute(_REVOKE_SLOT, {"slot_id": slot_id, "at_ms": at_ms})


def revoke_lease(connection: sqlite3.Connection, lease: Lease) -> None:
    """Mark a lease, whether a commit has brought it here yet or not."""
    fields = {name: getattr(lease, name) for name in Lease.__dataclass_fields__}
    connection.execute(_LEASE, {**fields, "revoked": 1})


def _lease(row: sqlite3.Row) -> Lease:
    fields = {name: row[name] for name in Lease.__dataclass_fields__ if name != "revoked"}
    return Lease(**fields, revoked=bool(row["revoked"]))
