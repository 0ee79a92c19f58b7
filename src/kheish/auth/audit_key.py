"""The key that signs the trail of external actions: where it comes from, and which retired keys it vouches for."""

from __future__ import annotations

import base64
import binascii
import os
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from kheish.auth.audit_chain import ALGORITHM, SECRET_BYTES, SigningKey, signed_by
from kheish.core.jsonvalue import JsonObject, decode_object, encode
from kheish.core.problems import Problem
from kheish.core.values import value_class
from kheish.store.files import private_folder, sync

VARIABLE: Final = "KHEISH_EXTERNAL_ACTION_AUDIT_SIGNING_KEY"
FILE_VARIABLE: Final = "KHEISH_EXTERNAL_ACTION_AUDIT_SIGNING_KEY_FILE"
FLAG: Final = "--audit-signing-key-file"
STORED_NAME: Final = "audit-signing.key"
"""Below the state root, when no other place is named."""
_MAX_FILE_BYTES = 4096


class AuditKeyRefused(Problem):
    """The signing key cannot be used."""

    domain, code, status = "audit", "audit_key_refused", 500


@value_class(frozen=True, kw_only=True, slots=True)
class ConfiguredKey:
    """A key that the operator named."""

    key: SigningKey
    path: Path | None
    """None: it stood in the environment itself."""


def configured_key(value: str, file: str) -> ConfiguredKey | None:
    """The key of the environment or of a file; None when neither is given.

    Raises:
        AuditKeyRefused: both are given, the file cannot be used, or it holds no key.
    """
    if value and file:
        raise AuditKeyRefused(f"{VARIABLE} and {FILE_VARIABLE} ({FLAG}) are mutually exclusive. Give one of them.")
    if value:
        return ConfiguredKey(key=parse_key(value.encode("utf-8", "surrogateescape"), VARIABLE), path=None)
    if not file:
        return None
    path = Path(file).absolute()
    return ConfiguredKey(key=read_key_file(path), path=path)


def stored_key(state_root: Path) -> SigningKey | None:
    """The key below the state root; None when there is none.

    Raises:
        AuditKeyRefused: it cannot be used.
    """
    path = state_root / STORED_NAME
    return read_key_file(path) if path.exists() else None


def read_key_file(path: Path) -> SigningKey:
    """The key in a file that others may not read.

    Raises:
        AuditKeyRefused: it cannot be read, others may read it, or it holds no key.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(_MAX_FILE_BYTES)
    except OSError as error:
        raise AuditKeyRefused(f"The audit signing key {path} cannot be read: {error.strerror}.") from None
    if stat.S_IMODE(mode) & (stat.S_IROTH | stat.S_IWOTH):
        raise AuditKeyRefused(
            f"Every user of this machine can read the audit signing key {path}. Run `chmod 600 {path}`, and change "
            "the key if others may have seen it (`kheish-daemon audit rotate-key`)."
        )
    return parse_key(content, f"The file {path}")


def parse_key(content: bytes, origin: str) -> SigningKey:
    """A key in its stored form, as hex, as base64 (also without padding, also URL-safe) or as 32 raw bytes.

    Raises:
        AuditKeyRefused: it is none of these.
    """
    secret = _secret(content)
    if secret is None:
        raise AuditKeyRefused(
            f"{origin}: an audit signing key is 32 bytes: as hex, as base64, raw, or in the JSON form that the daemon "
            "writes. `kheish-daemon secrets generate` makes one."
        )
    return SigningKey(secret)


def _secret(content: bytes) -> bytes | None:
    trimmed = content.strip()
    if trimmed.startswith(b"{"):
        return _of_document(trimmed)
    forms = (_of_hex(trimmed), _of_base64(trimmed), trimmed, content)
    return next((form for form in forms if form is not None and len(form) == SECRET_BYTES), None)


def _of_document(text: bytes) -> bytes | None:
    try:
        document = decode_object(text)
    except ValueError:
        return text if len(text) == SECRET_BYTES else None
    secret = document.get("secret_key_hex")
    if document.get("algorithm") != ALGORITHM or not isinstance(secret, str):
        return None
    found = _of_hex(secret.encode())
    return found if found is not None and len(found) == SECRET_BYTES else None


def _of_hex(text: bytes) -> bytes | None:
    try:
        return binascii.unhexlify(text)
    except (binascii.Error, ValueError):
        return None


def _of_base64(text: bytes) -> bytes | None:
    standard = text.replace(b"-", b"+").replace(b"_", b"/").rstrip(b"=")
    try:
        return base64.b64decode(standard + b"=" * (-len(standard) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def new_key() -> SigningKey:
    return SigningKey(secrets.token_bytes(SECRET_BYTES))


def write_key_file(path: Path, key: SigningKey) -> None:
    """Write a key for its owner only, durably, where nothing is yet.

    Raises:
        FileExistsError: something is there; it is left alone.
        OSError: it cannot be written.
    """
    private_folder(path.parent)
    content = encode({"algorithm": ALGORITHM, "secret_key_hex": key.secret_hex}) + b"\n"
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # A link, not a rename: it takes no other file's place.
        path.hardlink_to(temporary)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


# Retired keys


@value_class(frozen=True, kw_only=True, slots=True)
class KeyEntry:
    """A key that signed records, and who says so: the key itself, or the one that took its place."""

    key_id: str
    vouched_by: str
    at_ms: int
    signature: str
    """By `vouched_by`, as hex."""

    def to_json(self) -> JsonObject:
        return {
            "key_id": self.key_id,
            "vouched_by": self.vouched_by,
            "at_ms": self.at_ms,
            "signature": self.signature,
        }


def vouch(key_id: str, by: SigningKey, at_ms: int) -> KeyEntry:
    """Have a key say that records signed with another one are to be believed."""
    unsigned = KeyEntry(key_id=key_id, vouched_by=by.key_id, at_ms=at_ms, signature="")
    return KeyEntry(key_id=key_id, vouched_by=by.key_id, at_ms=at_ms, signature=by.sign(_statement(unsigned)))


def genuine(entries: Iterable[KeyEntry]) -> list[KeyEntry]:
    """The entries that the key they name did sign."""
    return [entry for entry in entries if signed_by(entry.vouched_by, _statement(entry), entry.signature)]


def believed(key_id: str, entries: Iterable[KeyEntry]) -> frozenset[str]:
    """Every key to believe when ``key_id`` is: what it vouches for, what these vouch for, and so on."""
    sound = genuine(entries)
    found, grown = frozenset[str](), frozenset({key_id})
    while grown != found:
        found = grown
        grown = found | {entry.key_id for entry in sound if entry.vouched_by in found}
    return found


def _statement(entry: KeyEntry) -> bytes:
    return encode(
        {
            "statement": "kheish:external-action-key",
            "signature_alg": ALGORITHM,
            "key_id": entry.key_id,
            "vouched_by": entry.vouched_by,
            "at_ms": entry.at_ms,
        }
    )
