"""The trail without a daemon: verified, written out, its key moved or replaced."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from kheish.auth.audit_chain import Fault, FaultKind
from kheish.auth.audit_key import (
    VARIABLE,
    ConfiguredKey,
    believed,
    configured_key,
    stored_key,
)
from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.core.problems import Problem
from kheish.external_actions import ledgers, store
from kheish.external_actions.happenings import body_digest, entries_named
from kheish.state import root
from kheish.state.journals import bodies_of_run
from kheish.store.files import private_folder

MAX_LISTED = 100
Step = Callable[[str], None]
"""Told what is looked at next."""


class AuditRefused(Problem):
    """The command cannot work on this state root, or with these places."""

    domain, code, status = "audit", "audit_refused", 400


@dataclass(slots=True)
class _Report:
    """What was looked at, and the first fault of each bucket."""

    buckets: int = 0
    records: int = 0
    faults: int = 0
    listed: list[JsonValue] = field(default_factory=list)

    def add(self, bucket: str, records: int, fault: Fault | None) -> None:
        self.buckets += 1
        self.records += records
        if fault is None:
            return
        self.faults += 1
        if len(self.listed) < MAX_LISTED:
            row: JsonObject = {"bucket": bucket, "fault": fault.kind.value, "detail": str(fault)}
            if fault.position is not None:
                row["position"] = fault.position
            if fault.action_id is not None:
                row["action_id"] = fault.action_id
            self.listed.append(row)

    def to_json(self, keys: Collection[str]) -> JsonObject:
        return {
            "ok": not self.faults,
            "buckets": self.buckets,
            "records": self.records,
            "key_ids": list[JsonValue](sorted(keys)),
            "fault_count": self.faults,
            "faults": self.listed,
        }


def named_key(key_file: str | None, environ: Mapping[str, str] = os.environ) -> ConfiguredKey | None:
    """The key that a flag or the environment names.

    Raises:
        AuditKeyRefused: two are named, or it cannot be used.
    """
    return configured_key(environ.get(VARIABLE, ""), key_file or "")


def verify_state(
    state_root: Path, key_ids: Collection[str], key_file: str | None, *, step: Step = lambda name: None
) -> JsonObject:
    """Check every bucket of a state root, with or without a daemon on it; changes nothing.

    Raises:
        AuditRefused: neither a key id nor a key says what to believe.
        Problem: the database or the key cannot be read.
    """
    trusted = set(key_ids) or {_present_key_id(state_root, key_file)}
    report = _Report()
    with _reading(state_root) as connection:
        entries = store.keys(connection)
        keys = frozenset[str]().union(*(believed(key_id, entries) for key_id in trusted))
        for name, chain in _chains(connection):
            step(f"bucket {name}")
            fault = _unnamed(chain) if not chain.records else None
            fault = fault or chain.check(keys) or _journal_fault(connection, chain)
            report.add(name, len(chain.records), fault)
    return report.to_json(keys)


@contextmanager
def _reading(state_root: Path) -> Iterator[sqlite3.Connection]:
    with root.reading(state_root) as connection:
        if not store.exists(connection):
            raise AuditRefused(f"{state_root} was last used by a release without a trail. Start the daemon on it once.")
        yield connection


def _present_key_id(state_root: Path, key_file: str | None) -> str:
    configured = named_key(key_file)
    key = stored_key(state_root) if configured is None else configured.key
    if key is None:
        raise AuditRefused(
            "Whose signatures are to be believed? Name the key's file with --audit-signing-key-file, or the public key "
            "with --key-id."
        )
    return key.key_id


def _chains(connection: sqlite3.Connection) -> Iterator[tuple[str, store.Chain]]:
    for raw in store.buckets(connection):
        name = raw.decode(errors="replace")
        yield name, store.chain(connection, name)


def _unnamed(chain: store.Chain) -> Fault | None:
    """A bucket whose name was damaged is not found by it."""
    if chain.checkpoint is not None or chain.fault is not None:
        return None
    return Fault(kind=FaultKind.UNREADABLE, position=None, detail="the name of its bucket cannot be read")


def _journal_fault(connection: sqlite3.Connection, chain: store.Chain) -> Fault | None:
    """The records name entries of the journal by their digest: is one of these not as it was?"""
    there = {body_digest(body) for body in bodies_of_run(connection, chain.bucket)}
    for position, record in enumerate(chain.records, start=1):
        missing = {*entries_named(record.action)} - there
        if missing:
            detail = "the journal has no entry with the digest it names: the entry was changed or removed"
            return Fault(kind=FaultKind.JOURNAL, position=position, action_id=record.action_id, detail=detail)
    return None


def verify_folder(folder: Path, key_ids: Collection[str], *, step: Step = lambda name: None) -> JsonObject:
    """Check an export. Without ``key_ids`` every key that vouches for itself in it is believed: the report names them.

    Raises:
        AuditRefused: the folder is no export, or cannot be read.
    """
    if not ledgers.is_export(folder):
        raise AuditRefused(f"{folder} holds no export of external actions. `kheish-daemon audit export` makes one.")
    report = _Report()
    try:
        entries = list(ledgers.read_keys(folder))
        trusted = set(key_ids) or {entry.key_id for entry in entries if entry.key_id == entry.vouched_by}
        keys = frozenset[str]().union(*(believed(key_id, entries) for key_id in trusted))
        for name in ledgers.names(folder):
            step(f"bucket {name}")
            report.add(*ledgers.check_ledger(folder, name, keys))
    except OSError as error:
        raise AuditRefused(f"{folder} cannot be read: {error.strerror}.") from error
    return report.to_json(keys)


def export(state_root: Path, folder: Path, *, step: Step = lambda name: None) -> JsonObject:
    """Write every bucket as it is, sound or not, below ``folder``; works while a daemon runs.

    A bucket with a row that cannot be read is left out and named in the report.

    Raises:
        AuditRefused: ``folder`` holds something already, or cannot be written.
        Problem: the database cannot be read.
    """
    counts = {"buckets": 0, "records": 0}
    left_out: list[JsonValue] = []
    with _reading(state_root) as connection:
        try:
            private_folder(folder)
            if any(folder.iterdir()):
                raise AuditRefused(f"{folder} is not empty. Choose another folder.")
            for name, chain in _chains(connection):
                step(f"bucket {name}")
                if chain.fault is not None or chain.checkpoint is None:
                    left_out.append({"bucket": name, "reason": str(chain.fault or _unnamed(chain) or "no checkpoint")})
                    continue
                ledgers.write_bucket(folder, chain.records, chain.checkpoint)
                counts["buckets"] += 1
                counts["records"] += len(chain.records)
            ledgers.write_keys(folder, store.keys(connection))
            os.sync()
        except OSError as error:
            raise AuditRefused(f"{folder} cannot be written: {error.strerror}.") from error
    return {**counts, "path": str(folder), "damaged_bucket_count": len(left_out), "damaged_buckets": left_out}
