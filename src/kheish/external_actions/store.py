"""SQL of the trail of external actions, and the projection that writes it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection
from dataclasses import fields
from operator import attrgetter

from kheish.auth.audit_chain import (
    ALGORITHM,
    Action,
    Checkpoint,
    Fault,
    FaultKind,
    Record,
    SigningKey,
    read_checkpoint,
    read_record,
    seal,
    seal_checkpoint,
    verify_checkpoint,
    verify_records,
)
from kheish.auth.audit_key import KeyEntry
from kheish.core.values import value_class
from kheish.engine.entries import InputAccepted
from kheish.engine.ports import Transition
from kheish.external_actions.happenings import actions_of
from kheish.store.database import Transaction
from kheish.store.remembered import Remembered
from kheish.store.rows import insertion

_TEXTS = (
    "session_id",
    "agent_id",
    "run_id",
    "tool_call_id",
    "principal_id",
    "parent_principal_id",
    "grant_id",
    "phase",
    "kind",
    "target",
    "request_digest",
    "response_digest",
    "outcome",
    "prev_hash",
    "record_hash",
    "key_id",
    "signature",
)
_INSERT = insertion(
    "external_actions (bucket, position, timestamp_ms, session_id, agent_id, run_id, tool_call_id, principal_id,"
    " parent_principal_id, grant_id, phase, kind, target, request_digest, response_digest, outcome, prev_hash,"
    " record_hash, key_id, signature)"
)
_COUNT = insertion(
    "external_action_checkpoints (bucket, record_count, last_record_hash, key_id, signature)",
    "ON CONFLICT (bucket) DO UPDATE SET record_count = excluded.record_count, key_id = excluded.key_id,"
    " last_record_hash = excluded.last_record_hash, signature = excluded.signature",
)
_END = """
SELECT last.position, last.record_hash, counted.record_count, counted.last_record_hash
  FROM (SELECT 1)
  LEFT JOIN (SELECT position, record_hash FROM external_actions
              WHERE bucket = :bucket ORDER BY position DESC LIMIT 1) AS last
  LEFT JOIN external_action_checkpoints AS counted ON counted.bucket = :bucket
"""
# Texts are read as bytes: one that is not UTF-8 is this row's damage, not the query's.
_RECORDS = """
SELECT timestamp_ms, CAST(session_id AS BLOB) AS session_id, CAST(agent_id AS BLOB) AS agent_id,
       CAST(run_id AS BLOB) AS run_id, CAST(tool_call_id AS BLOB) AS tool_call_id,
       CAST(principal_id AS BLOB) AS principal_id, CAST(parent_principal_id AS BLOB) AS parent_principal_id,
       CAST(grant_id AS BLOB) AS grant_id, CAST(phase AS BLOB) AS phase, CAST(kind AS BLOB) AS kind,
       CAST(target AS BLOB) AS target, CAST(request_digest AS BLOB) AS request_digest,
       CAST(response_digest AS BLOB) AS response_digest, CAST(outcome AS BLOB) AS outcome,
       CAST(prev_hash AS BLOB) AS prev_hash, CAST(record_hash AS BLOB) AS record_hash,
       CAST(key_id AS BLOB) AS key_id, CAST(signature AS BLOB) AS signature
  FROM external_actions WHERE bucket = :bucket ORDER BY position
"""
_CHECKPOINT = """
SELECT record_count, CAST(last_record_hash AS BLOB) AS last_record_hash, CAST(key_id AS BLOB) AS key_id,
       CAST(signature AS BLOB) AS signature
  FROM external_action_checkpoints WHERE bucket = :bucket
"""
_BUCKETS = """
SELECT CAST(bucket AS BLOB) AS bucket FROM external_action_checkpoints
 UNION SELECT DISTINCT CAST(bucket AS BLOB) FROM external_actions ORDER BY 1
"""
_EXISTS = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'external_actions'"
_ANY = "SELECT 1 FROM external_actions LIMIT 1"
_KEYS = """
SELECT CAST(key_id AS BLOB) AS key_id, CAST(vouched_by AS BLOB) AS vouched_by, at_ms,
       CAST(signature AS BLOB) AS signature
  FROM external_action_keys ORDER BY at_ms, key_id
"""
_KEEP_KEY = """
INSERT INTO external_action_keys (key_id, vouched_by, at_ms, signature)
VALUES (:key_id, :vouched_by, :at_ms, :signature)
ON CONFLICT (key_id) DO UPDATE SET vouched_by = excluded.vouched_by, at_ms = excluded.at_ms,
                                   signature = excluded.signature
"""
_FORGET_KEYS = "DELETE FROM external_action_keys"


class TrailBroken(Exception):
    """What the trail holds of a run was changed, so nothing more may be signed behind it: the run ends."""


_REMEMBERED_ENDS = 4096
"""Of the chains of live runs."""


class TrailProjection:
    """Signs what a commit says of external actions, in that commit: what cannot be signed does not happen."""

    def __init__(self, key: SigningKey, keys: Collection[str], acts_outside: Callable[[str], bool]) -> None:
        """``keys`` are the key ids to believe, ``acts_outside`` tells by a tool's name whether it is recorded."""
        self._key = key
        self._keys = keys
        self._acts_outside = acts_outside
        self._ends: Remembered[_End] = Remembered(_REMEMBERED_ENDS)
        """Of buckets that were read from their beginning, or begun here, and that nobody else can have changed."""
        self._data_version: int | None = None

    def apply(self, transaction: Transaction, transition: Transition) -> None:
        by_bucket: dict[str, list[Action]] = {}
        for action in actions_of(transition, self._acts_outside):
            by_bucket.setdefault(action.bucket, []).append(action)
        if not by_bucket:
            return
        if transaction.data_version != self._data_version:
            self._ends.clear()
            self._data_version = transaction.data_version
        begun = {one.run_id for one in transition.entries if type(one.entry) is InputAccepted}
        over = {run.run_id for run in transition.runs if run.status.terminal}
        for bucket, actions in by_bucket.items():
            # Of a run that begins here nothing can be there yet; if something is, its key refuses this commit.
            end = (0, None) if bucket in begun else self._end(transaction, bucket)
            end = self._append(transaction, bucket, actions, *end)
            if bucket in over:
                self._ends.forget(bucket)
            else:
                self._ends.keep(transaction, bucket, end)

    def _append(
        self, transaction: Transaction, bucket: str, actions: list[Action], position: int, last_hash: str | None
    ) -> _End:
        rows = []
        for action in actions:
            record = seal(action, last_hash, self._key)
            position, last_hash = position + 1, record.record_hash
            rows.append((bucket, position, *_told(action), *_sealed(record)))
        transaction.add(_INSERT, rows)
        transaction.add(_COUNT, (_counted(seal_checkpoint(bucket, position, last_hash, self._key)),))
        return position, last_hash

    def _end(self, transaction: Transaction, bucket: str) -> _End:
        """Position and hash of the bucket's last record; 0 and None before the first.

        Raises:
            TrailBroken: what is there is not what was signed.
        """
        known = self._ends.find(transaction, bucket)
        if known is not None:
            return known
        connection = transaction.connection
        position, record_hash, *counted = connection.execute(_END, {"bucket": bucket}).fetchone()
        as_we_left_it = self._ends.last(bucket) == (position, record_hash)
        if [position, record_hash] != counted or (position is not None and not as_we_left_it):
            fault = check_bucket(connection, bucket, self._keys)
            if fault is not None:
                raise TrailBroken(f"The external actions of {bucket} were changed: {fault}.")
        return position or 0, record_hash


_End = tuple[int, str | None]
"""Position and hash of a bucket's last record; 0 and None before the first."""

# In the order of the columns.
_told = attrgetter(*(field.name for field in fields(Action)))
_sealed = attrgetter("prev_hash", "record_hash", "key_id", "signature")
_counted = attrgetter("bucket", "record_count", "last_record_hash", "key_id", "signature")


# Reading


@value_class(frozen=True, kw_only=True, slots=True)
class Chain:
    """A bucket as its rows have it."""

    bucket: str
    records: tuple[Record, ...]
    checkpoint: Checkpoint | None
    fault: Fault | None
    """What cannot be read of it."""

    def check(self, keys: Collection[str]) -> Fault | None:
        """The first fault; None when all is sound."""
        changed = verify_records(self.bucket, self.records, keys)
        return changed or self.fault or verify_checkpoint(self.bucket, self.records, self.checkpoint, keys)


def check_bucket(connection: sqlite3.Connection, bucket: str, keys: Collection[str]) -> Fault | None:
    """The first fault of one bucket; None when it is sound, or has no records."""
    return chain(connection, bucket).check(keys)


def chain(connection: sqlite3.Connection, bucket: str) -> Chain:
    """One bucket, up to what cannot be read."""
    records: list[Record] = []
    fault: Fault | None = None
    for position, row in enumerate(connection.execute(_RECORDS, {"bucket": bucket}).fetchall(), start=1):
        try:
            records.append(_record(row))
        except ValueError as error:
            fault = Fault(kind=FaultKind.UNREADABLE, position=position, detail=str(error))
            break
    checkpoint = None
    if fault is None:
        row = connection.execute(_CHECKPOINT, {"bucket": bucket}).fetchone()
        try:
            checkpoint = None if row is None else _read_checkpoint(row, bucket)
        except ValueError as error:
            fault = Fault(kind=FaultKind.UNREADABLE, position=None, detail=str(error))
    return Chain(bucket=bucket, records=tuple(records), checkpoint=checkpoint, fault=fault)


def _record(row: sqlite3.Row) -> Record:
    found: dict[str, object] = {name: _text(row[name]) for name in _TEXTS}
    found["timestamp_ms"] = row["timestamp_ms"]
    return read_record({**found, "action_id": found["record_hash"], "signature_alg": ALGORITHM})


def _read_checkpoint(row: sqlite3.Row, bucket: str) -> Checkpoint:
    found: dict[str, object] = {name: _text(row[name]) for name in ("last_record_hash", "key_id", "signature")}
    found["record_count"] = row["record_count"]
    return read_checkpoint({**found, "bucket": bucket, "signature_alg": ALGORITHM})


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


def buckets(connection: sqlite3.Connection) -> list[bytes]:
    """The names of all buckets, in order; one may be damaged."""
    return [row["bucket"] for row in connection.execute(_BUCKETS)]


def exists(connection: sqlite3.Connection) -> bool:
    """Whether this database is of a release with a trail."""
    return connection.execute(_EXISTS).fetchone() is not None


def has_records(connection: sqlite3.Connection) -> bool:
    return connection.execute(_ANY).fetchone() is not None


# Keys


def keys(connection: sqlite3.Connection) -> list[KeyEntry]:
    """Every key that is known to have signed; rows that cannot be read vouch for nothing."""
    found: list[KeyEntry] = []
    for row in connection.execute(_KEYS):
        key_id, vouched_by, signature = (row[name] for name in ("key_id", "vouched_by", "signature"))
        at_ms = row["at_ms"]
        try:
            if isinstance(at_ms, int):
                entry = KeyEntry(
                    key_id=key_id.decode(), vouched_by=vouched_by.decode(), at_ms=at_ms, signature=signature.decode()
                )
                found.append(entry)
        except UnicodeDecodeError:
            continue
    return found


def keep_key(connection: sqlite3.Connection, entry: KeyEntry) -> None:
    """Write who vouches for a key, in place of what was known of it."""
    connection.execute(_KEEP_KEY, entry.to_json())


def forget_keys(connection: sqlite3.Connection) -> None:
    connection.execute(_FORGET_KEYS)
