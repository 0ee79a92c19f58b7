"""Secrets without a daemon: the same store and the same rules, on the files of a state root."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from kheish.auth.master_key import master_key, read_key_file
from kheish.auth.secret_store import SecretStore, StoreLocked, plaintext, write_sealed
from kheish.auth.slots import Slot, new_slot
from kheish.core.clock import SystemClock
from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.core.problems import Problem
from kheish.secrets.service import SecretNotFound
from kheish.store.lock import StateLock


class OfflineRefused(Problem):
    """The command cannot work on this state root."""

    domain, code, status = "secrets", "offline_refused", 400


def list_slots(state_root: Path, environ: Mapping[str, str] = os.environ) -> list[JsonValue]:
    """Every slot's status, by name.

    Raises:
        Problem: the store or the key cannot be used; the text says what to do.
    """
    slots = _opened(state_root, environ).slots
    return [slots[slot_id].status() for slot_id in sorted(slots)]


def get_slot(state_root: Path, slot_id: str, environ: Mapping[str, str] = os.environ) -> JsonObject:
    """One slot's status.

    Raises:
        SecretNotFound: there is none.
        Problem: as for `list_slots`.
    """
    slot = _opened(state_root, environ).slots.get(slot_id)
    if slot is None:
        raise SecretNotFound(slot_id)
    return slot.status()


def set_slot(state_root: Path, fields: JsonObject, environ: Mapping[str, str] = os.environ) -> JsonObject:
    """Create or rotate a slot; returns its status.

    Raises:
        StateRootLocked: a daemon runs on this state root; it would overwrite the change from its memory.
        Problem: the record, the store or the key cannot be used.
    """
    slot = new_slot(fields, updated_at_ms=SystemClock().now_ms())
    with _locked(state_root):
        store = _opened(state_root, environ)
        _written(store, {**store.slots, slot.slot_id: slot})
    return slot.status()


def delete_slot(state_root: Path, slot_id: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Remove a slot; False when there was none.

    Raises:
        StateRootLocked, Problem: as for `set_slot`.
    """
    with _locked(state_root):
        store = _opened(state_root, environ)
        if slot_id not in store.slots:
            return False
        _written(store, {name: slot for name, slot in store.slots.items() if name != slot_id})
    return True


def rekey(state_root: Path, new_key_file: Path, environ: Mapping[str, str] = os.environ) -> JsonObject:
    """Seal the store with another key. The store as it was stays beside it until the operator deletes it.

    Raises:
        OfflineRefused: there is no store, the keys are the same, or an earlier backup is still there.
        StateRootLocked, Problem: as for `set_slot`.
    """
    new_key = read_key_file(new_key_file, "--new-key-file")
    with _locked(state_root):
        old_key = master_key(environ)
        store = SecretStore(state_root, old_key)
        if not store.path.exists():
            raise OfflineRefused(f"There is no secret store below {state_root}: nothing to change the key of.")
        if new_key == old_key:
            raise OfflineRefused("The new key is the one in use. Make another: `kheish-daemon secrets generate`.")
        backup = store.path.with_name(f"{store.path.name}.before-rekey")
        _keep(store.path, backup)
        try:
            write_sealed(store.path, plaintext(store.slots), new_key)
            same = SecretStore(state_root, new_key).slots == store.slots
        except OSError as error:
            raise OfflineRefused(f"The store could not be written: {error.strerror}. It is as before.") from error
        if not same:
            backup.replace(store.path)
            raise OfflineRefused("The store read back differs from what was written; the old one was put back.")
    return {"slots": len(store.slots), "path": str(store.path), "backup_path": str(backup)}


def export_v1(state_root: Path, output: Path, environ: Mapping[str, str] = os.environ) -> JsonObject:
    """Write the store in the envelope earlier daemons read, under the same master key.

    Raises:
        OfflineRefused: the output exists, or cannot be written.
        StoreLocked: there is no master key.
        Problem: as for `list_slots`.
    """
    key = master_key(environ)
    store = SecretStore(state_root, key)
    if key is None:
        raise StoreLocked
    if output.exists():
        raise OfflineRefused(f"--to {output} exists already; nothing is overwritten.")
    if output.absolute() == store.path.absolute():
        raise OfflineRefused("--to is the store itself.")
    try:
        write_sealed(output, plaintext(store.slots), key, version=1)
    except OSError as error:
        raise OfflineRefused(f"--to {output} cannot be written: {error.strerror}.") from error
    return {"slots": len(store.slots), "path": str(output)}


def _opened(state_root: Path, environ: Mapping[str, str]) -> SecretStore:
    # A plaintext store of an earlier daemon can be read without any key.
    return SecretStore(state_root, master_key(environ))


def _written(store: SecretStore, slots: Mapping[str, Slot]) -> None:
    try:
        store.replace(slots)
    except OSError as error:
        raise OfflineRefused(f"The store could not be written: {error.strerror}. It is as before.") from error


def _keep(path: Path, backup: Path) -> None:
    try:
        backup.hardlink_to(path)
    except FileExistsError:
        raise OfflineRefused(
            f"{backup} of an earlier rekey is still there. Delete it once the daemon works with the new key."
        ) from None


@contextmanager
def _locked(state_root: Path) -> Iterator[None]:
    if not state_root.is_dir():
        try:
            state_root.mkdir(parents=True, mode=0o700)
        except OSError as error:
            raise OfflineRefused(f"The state root {state_root} cannot be created: {error.strerror}.") from error
    lock = StateLock(state_root)
    lock.acquire()
    try:
        yield
    finally:
        lock.release()
