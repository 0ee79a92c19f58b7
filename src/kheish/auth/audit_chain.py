"""The signed chain of external actions: records that name their predecessor, and a checkpoint that counts them. Pure.

What is hashed and signed is compact JSON with its keys in one fixed order, so that anybody can compute it again.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from enum import StrEnum
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from kheish.core.jsonvalue import JsonObject, encode
from kheish.core.values import value_class

ALGORITHM: Final = "ed25519"
SECRET_BYTES: Final = 32
UNSCOPED: Final = "unscoped"


class Phase(StrEnum):
    REQUEST = "request"
    """Written before the action begins."""
    RESPONSE = "response"
    """Written with what came of it."""


@value_class(frozen=True, kw_only=True, slots=True)
class Action:
    """What a record says. The order of the fields is the order in which they are hashed."""

    timestamp_ms: int
    session_id: str | None = None
    agent_id: str | None = None
    run_id: str | None = None
    tool_call_id: str | None = None
    principal_id: str | None = None
    parent_principal_id: str | None = None
    grant_id: str | None = None
    phase: Phase
    kind: str
    target: str
    request_digest: str | None = None
    response_digest: str | None = None
    outcome: str | None = None

    @property
    def bucket(self) -> str:
        """The chain it belongs to: its run's, else its session's."""
        if self.run_id is not None:
            return self.run_id
        return UNSCOPED if self.session_id is None else f"session-{self.session_id}"


@value_class(frozen=True, kw_only=True, slots=True)
class Record:
    """An action in its place of a chain."""

    action: Action
    prev_hash: str | None
    """Of the record before it; None for the first."""
    record_hash: str
    key_id: str
    """The public key, as hex."""
    signature: str

    @property
    def action_id(self) -> str:
        return self.record_hash

    def to_json(self) -> JsonObject:
        """The record on the wire and in a ledger; what is absent is left out."""
        told = _fields(self.action, self.prev_hash)
        found: JsonObject = {"action_id": self.action_id}
        found.update((name, value) for name, value in told.items() if value is not None)
        sealed = (self.record_hash, ALGORITHM, self.key_id, self.signature)
        found.update(zip(_SEAL, sealed, strict=True))
        return found


@value_class(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """How long a bucket's chain is and how it ends: what is missing at its end is missed."""

    bucket: str
    record_count: int
    last_record_hash: str | None
    key_id: str
    signature: str

    def to_json(self) -> JsonObject:
        return {**self.signed(), "signature": self.signature}

    def signed(self) -> JsonObject:
        """What its signature is over."""
        return _checkpoint_fields(self.bucket, self.record_count, self.last_record_hash, self.key_id)


class FaultKind(StrEnum):
    UNREADABLE = "unreadable"
    BUCKET = "bucket"
    PREV_HASH = "prev_hash"
    RECORD_HASH = "record_hash"
    KEY_ID = "key_id"
    SIGNATURE = "signature"
    CHECKPOINT = "checkpoint"
    TRUNCATED = "truncated"
    JOURNAL = "journal"
    """The record is sound, and what it speaks of is not as it was."""


@value_class(frozen=True, kw_only=True, slots=True)
class Fault:
    """The first thing that is wrong with a chain."""

    kind: FaultKind
    position: int | None
    """Of the record, the first is 1; None when it is the checkpoint."""
    detail: str
    action_id: str | None = None

    def __str__(self) -> str:
        if self.position is None:
            return f"the checkpoint: {self.detail}"
        named = "" if self.action_id is None else f" (action {self.action_id})"
        return f"record {self.position}{named}: {self.detail}"


class SigningKey:
    """An Ed25519 key that signs the trail. Never shown."""

    __slots__ = ("_private", "_secret", "key_id")

    def __init__(self, secret: bytes) -> None:
        """``secret`` is the 32 bytes of the private key."""
        self._secret = secret
        self._private = Ed25519PrivateKey.from_private_bytes(secret)
        self.key_id = self._private.public_key().public_bytes_raw().hex()

    def sign(self, message: bytes) -> str:
        """The signature, as hex."""
        return self._private.sign(message).hex()

    @property
    def secret_hex(self) -> str:
        """What a key file holds."""
        return self._secret.hex()

    def forms(self) -> tuple[str, ...]:
        """The texts a key may be given as: what must not be shown."""
        encoded = (base64.b64encode(self._secret), base64.urlsafe_b64encode(self._secret))
        return (self.secret_hex, *(text.rstrip(b"=").decode() for text in encoded))

    def __repr__(self) -> str:
        return f"SigningKey({self.key_id})"


def seal(action: Action, prev_hash: str | None, key: SigningKey) -> Record:
    """Put an action behind the record with ``prev_hash`` and sign it."""
    told = encode(_fields(action, prev_hash))
    record_hash = _hash(told)
    signature = key.sign(_signed(told, record_hash, key.key_id))
    return Record(action=action, prev_hash=prev_hash, record_hash=record_hash, key_id=key.key_id, signature=signature)


def seal_checkpoint(bucket: str, record_count: int, last_record_hash: str | None, key: SigningKey) -> Checkpoint:
    """Say how long the bucket's chain is now."""
    return Checkpoint(
        bucket=bucket,
        record_count=record_count,
        last_record_hash=last_record_hash,
        key_id=key.key_id,
        signature=key.sign(encode(_checkpoint_fields(bucket, record_count, last_record_hash, key.key_id))),
    )


def verify(
    bucket: str, records: Sequence[Record], checkpoint: Checkpoint | None, keys: Collection[str]
) -> Fault | None:
    """Return the first fault of a bucket's chain, None when it is sound. ``keys`` are the key ids to believe.

    More records than the checkpoint counts are no fault: they are signed, and a writer may stop between the two.
    """
    return verify_records(bucket, records, keys) or verify_checkpoint(bucket, records, checkpoint, keys)


def verify_records(bucket: str, records: Sequence[Record], keys: Collection[str]) -> Fault | None:
    """The first fault of the records themselves; nothing tells whether some are missing at the end."""
    before: str | None = None
    for position, record in enumerate(records, start=1):
        found = _record_fault(bucket, record, before, keys)
        if found is not None:
            kind, detail = found
            return Fault(kind=kind, position=position, action_id=record.action_id, detail=detail)
        before = record.record_hash
    return None


def _record_fault(
    bucket: str, record: Record, before: str | None, keys: Collection[str]
) -> tuple[FaultKind, str] | None:
    if record.prev_hash != before:
        return FaultKind.PREV_HASH, "it does not follow the record before it: one is missing, added or moved"
    told = encode(_fields(record.action, record.prev_hash))
    if _hash(told) != record.record_hash:
        return FaultKind.RECORD_HASH, "its content was changed: the hash is of another one"
    if record.action.bucket != bucket:
        return FaultKind.BUCKET, f"it belongs to {record.action.bucket!r}"
    if record.key_id not in keys:
        return FaultKind.KEY_ID, f"it is signed with the key {record.key_id}, which is not known"
    if not signed_by(record.key_id, _signed(told, record.record_hash, record.key_id), record.signature):
        return FaultKind.SIGNATURE, "its signature is not valid"
    return None


def verify_checkpoint(
    bucket: str, records: Sequence[Record], checkpoint: Checkpoint | None, keys: Collection[str]
) -> Fault | None:
    """The first fault of a checkpoint, beside records that are sound."""
    if checkpoint is None:
        return _about_checkpoint("it is missing") if records else None
    if checkpoint.key_id not in keys:
        return _about_checkpoint(f"it is signed with the key {checkpoint.key_id}, which is not known")
    if not signed_by(checkpoint.key_id, encode(checkpoint.signed()), checkpoint.signature):
        return _about_checkpoint("its signature is not valid")
    if checkpoint.bucket != bucket:
        return _about_checkpoint(f"it belongs to {checkpoint.bucket!r}")
    if len(records) < checkpoint.record_count:
        detail = f"it is missing: {checkpoint.record_count} records were signed and {len(records)} are there"
        return Fault(kind=FaultKind.TRUNCATED, position=len(records) + 1, detail=detail)
    last = records[checkpoint.record_count - 1].record_hash if checkpoint.record_count else None
    if last != checkpoint.last_record_hash:
        return _about_checkpoint("it ends with another record")
    return None


def _about_checkpoint(detail: str) -> Fault:
    return Fault(kind=FaultKind.CHECKPOINT, position=None, detail=detail)


def signed_by(key_id: str, message: bytes, signature: str) -> bool:
    """Whether the private key of ``key_id`` made this signature; False also for what is no key or no signature."""
    try:
        _public(key_id).verify(bytes.fromhex(signature), message)
    except (InvalidSignature, ValueError):
        return False
    return True


@lru_cache(maxsize=64)
def _public(key_id: str) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(key_id))


# JSON

_ACTION: Final = tuple(field.name for field in fields(Action))
_SEAL: Final = ("record_hash", "signature_alg", "key_id", "signature")
_RECORD: Final = frozenset({"action_id", *_ACTION, "prev_hash", *_SEAL})
_CHECKPOINT: Final = frozenset({"bucket", "record_count", "last_record_hash", "signature_alg", "key_id", "signature"})


def _fields(action: Action, prev_hash: str | None) -> JsonObject:
    found: JsonObject = {
        "timestamp_ms": action.timestamp_ms,
        "session_id": action.session_id,
        "agent_id": action.agent_id,
        "run_id": action.run_id,
        "tool_call_id": action.tool_call_id,
        "principal_id": action.principal_id,
        "parent_principal_id": action.parent_principal_id,
    }
    if action.grant_id is not None:
        found["grant_id"] = action.grant_id
    found["phase"] = action.phase.value
    found["kind"] = action.kind
    found["target"] = action.target
    found["request_digest"] = action.request_digest
    found["response_digest"] = action.response_digest
    found["outcome"] = action.outcome
    found["prev_hash"] = prev_hash
    return found


def _hash(told: bytes) -> str:
    return hashlib.sha256(told).hexdigest()


def _signed(told: bytes, record_hash: str, key_id: str) -> bytes:
    """The seal's own fields, then what the record says: one JSON object."""
    head: JsonObject = {
        "action_id": record_hash,
        "signature_alg": ALGORITHM,
        "key_id": key_id,
        "record_hash": record_hash,
    }
    return encode(head)[:-1] + b"," + told[1:]


def _checkpoint_fields(bucket: str, record_count: int, last_record_hash: str | None, key_id: str) -> JsonObject:
    found: JsonObject = {"bucket": bucket, "record_count": record_count}
    if last_record_hash is not None:
        found["last_record_hash"] = last_record_hash
    found["signature_alg"] = ALGORITHM
    found["key_id"] = key_id
    return found


def read_record(found: Mapping[str, object]) -> Record:
    """A record from its JSON form.

    Raises:
        ValueError: a field is missing, has the wrong type or is not known.
    """
    _known(found, _RECORD)
    given = {name: _text_or_none(found, name) for name in _ACTION if name not in _REQUIRED}
    if found.get("action_id") != found.get("record_hash"):
        raise ValueError("action_id is not record_hash")
    return Record(
        action=Action(
            timestamp_ms=_integer(found, "timestamp_ms"),
            phase=Phase(_text(found, "phase")),
            kind=_text(found, "kind"),
            target=_text(found, "target"),
            **given,
        ),
        prev_hash=_text_or_none(found, "prev_hash"),
        record_hash=_text(found, "record_hash"),
        key_id=_text(found, "key_id"),
        signature=_text(found, "signature"),
    )


_REQUIRED: Final = frozenset({"timestamp_ms", "phase", "kind", "target"})


def read_checkpoint(found: Mapping[str, object]) -> Checkpoint:
    """A checkpoint from its JSON form.

    Raises:
        ValueError: a field is missing, has the wrong type or is not known.
    """
    _known(found, _CHECKPOINT)
    return Checkpoint(
        bucket=_text(found, "bucket"),
        record_count=_integer(found, "record_count"),
        last_record_hash=_text_or_none(found, "last_record_hash"),
        key_id=_text(found, "key_id"),
        signature=_text(found, "signature"),
    )


def _known(found: Mapping[str, object], names: frozenset[str]) -> None:
    # An unknown field is one that nobody signed.
    if unknown := found.keys() - names:
        raise ValueError(f"{', '.join(sorted(unknown))}: not known")
    if found.get("signature_alg") != ALGORITHM:
        raise ValueError(f"signature_alg is not {ALGORITHM}")


def _text(found: Mapping[str, object], name: str) -> str:
    value = found.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{name} is no text")
    return value


def _text_or_none(found: Mapping[str, object], name: str) -> str | None:
    return None if found.get(name) is None else _text(found, name)


def _integer(found: Mapping[str, object], name: str) -> int:
    value = found.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise ValueError(f"{name} is no whole number")
    return value
