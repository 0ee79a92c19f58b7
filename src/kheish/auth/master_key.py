"""The key of the secret store: from the environment or a file, one per state root."""

from __future__ import annotations

import base64
import binascii
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from kheish.auth.envelope import KEY_BYTES
from kheish.core.problems import Problem

VARIABLE = "KHEISH_AUTH_STORE_MASTER_KEY"
FILE_VARIABLE = "KHEISH_AUTH_STORE_MASTER_KEY_FILE"
_MAX_FILE_BYTES = 4096


class MasterKeyRefused(Problem):
    """The master key cannot be used."""

    domain, code, status = "secrets", "master_key_refused", 500


def master_key(environ: Mapping[str, str]) -> bytes | None:
    """The 32 bytes the environment names; None when it names none.

    Raises:
        MasterKeyRefused: both variables are set, the file cannot be used, or the key has another size.
    """
    value, file = environ.get(VARIABLE, ""), environ.get(FILE_VARIABLE, "")
    if value and file:
        raise MasterKeyRefused(f"{VARIABLE} and {FILE_VARIABLE} are mutually exclusive. Unset one of them.")
    if value:
        return parse_key(value.encode("utf-8", "surrogateescape"), VARIABLE)
    return read_key_file(Path(file), FILE_VARIABLE) if file else None


def read_key_file(path: Path, origin: str) -> bytes:
    """The key in a file that only its owner and group may read; ``origin`` says who named the file.

    Raises:
        MasterKeyRefused: it cannot be read, others may read it, or it holds no key.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(_MAX_FILE_BYTES)
    except OSError as error:
        raise MasterKeyRefused(f"{origin}: the key file {path} cannot be read: {error.strerror}.") from None
    if stat.S_IMODE(mode) & stat.S_IROTH:
        raise MasterKeyRefused(
            f"{origin}: every user of this machine can read the key file {path}. "
            f"Run `chmod 600 {path}`, and change the key if others may have seen it (`kheish-daemon secrets rekey`)."
        )
    return parse_key(content, f"{origin} ({path})")


def parse_key(text: bytes, origin: str) -> bytes:
    """32 bytes: as base64, else raw.

    Raises:
        MasterKeyRefused: it is neither.
    """
    trimmed = text.strip()
    try:
        decoded = base64.b64decode(trimmed, validate=True)
    except (binascii.Error, ValueError):
        decoded = b""
    if len(decoded) == KEY_BYTES:
        return decoded
    for raw in (trimmed, text):
        if len(raw) == KEY_BYTES:
            return raw
    raise MasterKeyRefused(
        f"{origin}: a master key is 32 raw bytes or base64 of 32 bytes. `kheish-daemon secrets generate` makes one."
    )
