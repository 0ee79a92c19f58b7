"""The trail at the start of the daemon: its key, and whether that key may go on with what is there."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import structlog

from kheish.auth.audit_chain import SigningKey
from kheish.auth.audit_key import (
    FILE_VARIABLE,
    FLAG,
    STORED_NAME,
    AuditKeyRefused,
    ConfiguredKey,
    believed,
    genuine,
    new_key,
    stored_key,
    vouch,
    write_key_file,
)
from kheish.core.jsonvalue import JsonObject
from kheish.core.values import value_class
from kheish.external_actions import store

log = structlog.get_logger(__name__)

_FORGEABLE = "whoever can write to the state root can forge the trail of external actions: its signing key is there too"
_MOVE = "Move the key with `kheish-daemon audit relocate-key --to FILE`."


@value_class(frozen=True, kw_only=True, slots=True)
class Trail:
    """What signs external actions, and which keys are believed."""

    key: SigningKey
    keys: frozenset[str]
    """Key ids: the present one and those it vouches for."""
    inside: Path | None
    """Where the key lies when that is below the state root."""

    def warnings(self) -> list[JsonObject]:
        """What an operator should know, as health warnings."""
        if self.inside is None:
            return []
        return [
            {
                "severity": "warning",
                "code": "audit_key_in_state_root",
                "message": _FORGEABLE,
                "related_id": str(self.inside),
                "action": _MOVE,
            }
        ]


def open_trail(
    connection: sqlite3.Connection, state_root: Path, configured: ConfiguredKey | None, *, now_ms: int
) -> Trail:
    """Find the signing key, or make one for a trail that has no records yet.

    Raises:
        AuditKeyRefused: there are records and no key, or not the key that signed them; or it cannot be kept.
    """
    key, path = _key(connection, state_root, configured)
    # A key that was never used signed nothing: there is nothing to vouch for.
    if not store.has_records(connection) and [entry.key_id for entry in store.keys(connection)] != [key.key_id]:
        _begin(connection, key, now_ms)
    # A damaged entry vouches for nothing and keeps nobody from starting: what it spoke for is refused when it is read.
    entries = genuine(store.keys(connection))
    keys = believed(key.key_id, entries)
    strangers = sorted({entry.key_id for entry in entries} - keys)
    if strangers:
        raise AuditKeyRefused(
            f"The trail of external actions was signed with the key {strangers[-1]}, and this daemon was given the key "
            f"{key.key_id}. Start it with the key that was used before, or make this one its successor with "
            "`kheish-daemon audit rotate-key`."
        )
    inside = path if path is not None and path.resolve().is_relative_to(state_root.resolve()) else None
    if inside is not None:
        log.warning("audit.key_in_state_root", path=str(inside), consequence=_FORGEABLE, action=_MOVE)
    return Trail(key=key, keys=keys, inside=inside)


def _key(
    connection: sqlite3.Connection, state_root: Path, configured: ConfiguredKey | None
) -> tuple[SigningKey, Path | None]:
    if configured is not None:
        return configured.key, configured.path
    path = state_root / STORED_NAME
    key = stored_key(state_root)
    if key is not None:
        return key, path
    if store.has_records(connection):
        raise AuditKeyRefused(
            f"There are signed external actions, and the key that goes on with them is missing: put {path} back, or "
            f"name another file with {FLAG} or {FILE_VARIABLE}. Without the old key, `kheish-daemon audit rotate-key` "
            "starts a new one that vouches for what is there."
        )
    key = new_key()
    try:
        write_key_file(path, key)
    except OSError as error:
        raise AuditKeyRefused(f"The audit signing key {path} cannot be written: {error.strerror}.") from error
    return key, path


def _begin(connection: sqlite3.Connection, key: SigningKey, now_ms: int) -> None:
    connection.execute("BEGIN IMMEDIATE")
    store.forget_keys(connection)
    store.keep_key(connection, vouch(key.key_id, key, now_ms))
    connection.execute("COMMIT")
