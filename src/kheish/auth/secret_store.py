"""The encrypted secret store: one file, read whole at the start and replaced whole at each change."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

import orjson
import structlog

from kheish.auth.envelope import EnvelopeRefused, is_envelope, seal, unseal
from kheish.auth.master_key import FILE_VARIABLE, VARIABLE
from kheish.auth.slots import Slot, stored_slot
from kheish.core.jsonvalue import JsonObject, decode_object, encode
from kheish.core.problems import Problem

log = structlog.get_logger(__name__)

PLACE = Path("auth") / "global-slots.json"
"""Below the state root."""


class StoreUnreadable(Problem):
    """The secret store cannot be read."""

    domain, code, status = "secrets", "auth_store_unreadable", 500


class StoreLocked(Problem):
    """There is no master key: secrets can be neither added, changed nor removed."""

    domain, code, status = "secrets", "master_key_missing", 409

    def __init__(self) -> None:
        super().__init__(
            "Secrets are only written encrypted, and this daemon has no master key. "
            f"Set {VARIABLE} or {FILE_VARIABLE}; `kheish-daemon secrets generate` makes a key."
        )


class SecretStore:
    """Slots by name. Blocking; its owner calls it off the event loop and one at a time."""

    def __init__(self, state_root: Path, key: bytes | None, *, require_encrypted: bool = False) -> None:
        """Read the store.

        Raises:
            StoreUnreadable: it is encrypted and there is no key or another one, it is damaged, or it is plaintext
                where that is not allowed. The file is left as it is.
        """
        self.path = state_root / PLACE
        self._key = key
        self._plaintext = False
        self._slots = self._load(require_encrypted)

    @property
    def slots(self) -> Mapping[str, Slot]:
        return self._slots

    def find(self, slot_id: str) -> Slot | None:
        """The slot with this name."""
        return self._slots.get(slot_id)

    def replace(self, slots: Mapping[str, Slot]) -> None:
        """Make ``slots`` the content, durably and encrypted.

        Raises:
            StoreLocked: there is no master key.
            OSError: the disk refused; the file is as before.
        """
        if self._key is None:
            raise StoreLocked
        write_sealed(self.path, plaintext(slots), self._key)
        self._slots = dict(slots)
        self._plaintext = False

    def warnings(self) -> list[JsonObject]:
        """What an operator should know, as health warnings."""
        if not self._plaintext:
            return []
        return [
            {
                "severity": "warning",
                "code": "secret_store_plaintext",
                "message": "the secret store is not encrypted: whoever reads the file has the keys",
                "related_id": str(self.path),
                "action": f"Set {VARIABLE} or {FILE_VARIABLE} and start again; setting any secret then encrypts it.",
            }
        ]

    def _load(self, require_encrypted: bool) -> dict[str, Slot]:
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise self._unreadable(f"{error.strerror}.") from None
        try:
            document = decode_object(content)
        except ValueError:
            raise self._unreadable("it is not JSON. Restore the file from a backup.") from None
        if is_envelope(document):
            document = self._opened(document)
        elif require_encrypted:
            raise self._unreadable(
                "it is not encrypted, and KHEISH_AUTH_STORE_REQUIRE_ENCRYPTED refuses that. "
                "Start once without it and with a master key, and set any secret: that encrypts the store."
            )
        else:
            self._plaintext = True
            log.warning(
                "secrets.store_is_plaintext", path=str(self.path), action="Give a master key; the next write encrypts."
            )
        return self._parsed(document)

    def _opened(self, envelope: JsonObject) -> JsonObject:
        if self._key is None:
            raise self._unreadable(f"it is encrypted. Set {VARIABLE} or {FILE_VARIABLE} to its master key.")
        try:
            return decode_object(unseal(envelope, self._key))
        except EnvelopeRefused as error:
            action = "Give the key it was written with, or restore the file from a backup."
            raise self._unreadable(f"{error}. {action}") from None
        except ValueError:
            raise self._unreadable("its content is not JSON. Restore the file from a backup.") from None

    def _parsed(self, document: JsonObject) -> dict[str, Slot]:
        slots = document.get("slots")
        if not isinstance(slots, dict):
            raise self._unreadable("it has no slots. Restore the file from a backup.")
        try:
            return {slot_id: stored_slot(slot_id, record) for slot_id, record in slots.items()}
        except ValueError:
            raise self._unreadable("it holds a slot this release does not know. Start a newer release.") from None

    def _unreadable(self, why: str) -> StoreUnreadable:
        return StoreUnreadable(f"The secret store {self.path} cannot be read: {why} Nothing was changed.")


def plaintext(slots: Mapping[str, Slot]) -> bytes:
    """The content before it is sealed: compact JSON, names sorted."""
    return encode({"slots": {slot_id: slots[slot_id].record() for slot_id in sorted(slots)}})


def write_sealed(path: Path, content: bytes, key: bytes, *, version: int = 2) -> None:
    """Seal ``content`` and replace the file at ``path`` with it, for its owner only.

    Raises:
        OSError: the disk refused; the file is as before.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    sealed = orjson.dumps(seal(content, key, version=version), option=orjson.OPT_INDENT_2) + b"\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(sealed)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
