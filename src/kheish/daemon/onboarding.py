"""`up`: what a first start needs beyond `serve`, made once and used again."""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import MutableMapping
from pathlib import Path

from kheish.auth.envelope import KEY_BYTES
from kheish.auth.master_key import FILE_VARIABLE, VARIABLE
from kheish.auth.secret_store import PLACE as STORE
from kheish.daemon.settings import DEFAULT_STATE_ROOT
from kheish.store.files import private_folder

KEY_FILE = "auth-store-master.key"
"""Below the state root. A copy elsewhere, or a key of your own outside of it, survives the loss of the state root."""


def ensure_master_key(state_root: Path, environ: MutableMapping[str, str]) -> Path | None:
    """Name a master key in ``environ`` when it names none: the one of an earlier `up`, or a new one.

    Returns the file; None when the environment names a key itself, or the store was written with another one.

    Raises:
        OSError: the file cannot be made.
    """
    if environ.get(VARIABLE) or environ.get(FILE_VARIABLE):
        return None
    file = state_root / KEY_FILE
    if not file.exists():
        if (state_root / STORE).exists():
            return None  # a new key could not open it; the start says which one is missing
        _create(file)
    environ[FILE_VARIABLE] = str(file)
    return file


def _create(file: Path) -> None:
    private_folder(file.parent)
    key = base64.b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n"
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return  # another `up` was faster; the state root's lock decides which of the two serves
    with os.fdopen(descriptor, "wb") as written:
        written.write(key)
        written.flush()
        os.fsync(written.fileno())


def welcome(bind_addr: str, *, has_routes: bool) -> str:
    """What a person reads once the daemon answers."""
    host, _, port = bind_addr.rpartition(":")
    reachable = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)  # noqa: S104  # shown, not bound
    lines = [f"Kheish ready at http://{reachable}:{port}/"]
    if not has_routes:
        lines += [
            "There is no model route yet. In another terminal, for example:",
            "  kheish-daemon secrets set openai.prod --provider openai --from-env OPENAI_API_KEY",
            "  kheish-daemon runtime set-route openai --json "
            '\'{"driver": "openai", "default_model": "gpt-5.4", "auth_ref": "openai.prod"}\'',
        ]
    return "\n".join(lines)


def state_root_of(options: dict[str, object]) -> Path:
    """Where `serve` will keep its state."""
    return Path(str(options.get("state_root") or DEFAULT_STATE_ROOT)).absolute()
