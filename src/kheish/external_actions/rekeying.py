"""The signing key moved elsewhere, or replaced by one that vouches for it; the daemon must be stopped."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from kheish.auth.audit_chain import SigningKey
from kheish.auth.audit_key import (
    FLAG,
    STORED_NAME,
    ConfiguredKey,
    believed,
    genuine,
    new_key,
    read_key_file,
    stored_key,
    vouch,
    write_key_file,
)
from kheish.core.clock import SystemClock
from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.external_actions import store
from kheish.external_actions.offline import AuditRefused
from kheish.state import root
from kheish.store.files import sync


def relocate(state_root: Path, target: Path) -> JsonObject:
    """Move the key out of the state root. The old file goes when the new one was read back and is the same key.

    Raises:
        AuditRefused: there is no key in the state root, or ``target`` cannot take it; the key stays where it is.
        StateRootLocked: a daemon runs on this state root.
    """
    target = _outside(state_root, target)
    with root.locked(state_root):
        key = stored_key(state_root)
        if key is None:
            raise AuditRefused(f"There is no signing key to move: {state_root / STORED_NAME} is missing.")
        _write(target, key)
        _remove(state_root)
    return {"key_id": key.key_id, "path": str(target), "next_step": f"Start the daemon with {FLAG} {target}."}


def rotate(state_root: Path, target: Path, present: ConfiguredKey | None, *, lost: bool = False) -> JsonObject:
    """Make a new key that vouches for the records of the present one; the present one leaves the state root.

    ``lost`` vouches for the records that are there without having the key that signed them.

    Raises:
        AuditRefused: the present key is missing, the records are not as it signed them, or ``target`` cannot take the
            new one; nothing was changed.
        StateRootLocked: a daemon runs on this state root.
    """
    target = _outside(state_root, target)
    with root.locked(state_root):
        key = stored_key(state_root) if present is None else present.key
        if key is None and not lost:
            raise AuditRefused(
                "The present signing key is missing: name its file with --audit-signing-key-file. If it is lost, "
                "--present-key-lost vouches for the records that are there without it."
            )
        with _database(state_root) as connection:
            entries = genuine(store.keys(connection))
            known = {entry.key_id for entry in entries}
            trusted = frozenset(known) if key is None or lost else believed(key.key_id, entries)
            strangers = sorted(known - trusted)
            if strangers:
                raise AuditRefused(f"The trail was signed with the key {strangers[-1]}; give that one, not another.")
            _require_sound(connection, trusted)
            successor = new_key()
            _write(target, successor)
            retired = _hand_over(connection, successor, trusted)
        _remove(state_root)
    return {
        "key_id": successor.key_id,
        "path": str(target),
        "retired_key_ids": list[JsonValue](retired),
        "next_step": f"Start the daemon with {FLAG} {target}, and destroy the old key.",
    }


def _database(state_root: Path) -> closing[sqlite3.Connection]:
    path = state_root / root.DATABASE
    if not path.is_file():
        raise root.no_state(state_root)
    root.require_undamaged(path)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA synchronous = FULL")
    return closing(connection)


def _require_sound(connection: sqlite3.Connection, keys: frozenset[str]) -> None:
    for raw in store.buckets(connection):
        bucket = raw.decode(errors="replace")
        fault = store.check_bucket(connection, bucket, keys)
        if fault is not None:
            raise AuditRefused(
                f"A new key must not vouch for records that were changed. {bucket}: {fault}. Look at all of them with "
                "`kheish-daemon audit verify`, and restore a backup."
            )


def _hand_over(connection: sqlite3.Connection, successor: SigningKey, retired: frozenset[str]) -> list[str]:
    now_ms = SystemClock().now_ms()
    connection.execute("BEGIN IMMEDIATE")
    for key_id in sorted(retired):
        store.keep_key(connection, vouch(key_id, successor, now_ms))
    store.keep_key(connection, vouch(successor.key_id, successor, now_ms))
    connection.execute("COMMIT")
    return sorted(retired)


def _outside(state_root: Path, target: Path) -> Path:
    found = target.absolute()
    if found.resolve().is_relative_to(state_root.resolve()):
        raise AuditRefused(f"{target} lies inside the state root. Choose a place that only the daemon's owner reaches.")
    return found


def _write(target: Path, key: SigningKey) -> None:
    try:
        write_key_file(target, key)
        again = read_key_file(target)
    except FileExistsError:
        raise AuditRefused(f"{target} exists already; nothing is overwritten.") from None
    except OSError as error:
        raise AuditRefused(f"{target} cannot be written: {error.strerror}.") from error
    if again.key_id != key.key_id:
        raise AuditRefused(f"{target} does not hold the key that was written there; the key stays where it is.")


def _remove(state_root: Path) -> None:
    path = state_root / STORED_NAME
    path.unlink(missing_ok=True)
    sync(path.parent)
