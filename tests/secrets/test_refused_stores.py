"""A store or a key that cannot be used: every command of the real executable says what to do and overwrites nothing."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

from kheish.auth.envelope import seal
from kheish.auth.secret_store import PLACE
from kheish.secrets import offline

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))
SECRET = "sk-hunter2-0123456789"
VARIABLE, FILE_VARIABLE = "KHEISH_AUTH_STORE_MASTER_KEY", "KHEISH_AUTH_STORE_MASTER_KEY_FILE"
COMMANDS = {
    "serve": ("serve", "--bind", "127.0.0.1:0", "--allow-empty-routes"),
    "list": ("secrets", "list", "--offline"),
    "set": ("secrets", "set", "b", "--provider", "generic", "--from-env", "NEW", "--offline"),
    "delete": ("secrets", "delete", "a", "--offline"),
    "rekey": ("secrets", "rekey", "--new-key-file", "new.key"),
    "export": ("secrets", "export", "--envelope-v1", "--to", "v1.json"),
}


def encoded(key: bytes) -> str:
    return base64.b64encode(key).decode()


@dataclass(frozen=True, kw_only=True)
class Case:
    damage: Callable[[bytes], bytes] = bytes
    environment: Callable[[Path], dict[str, str]] = lambda root: {VARIABLE: encoded(KEY)}
    says: tuple[str, ...] = ()
    key_only: bool = False
    """The store itself is good: its fault is the key's."""


def flipped(content: bytes) -> bytes:
    envelope = json.loads(content)
    raw = bytearray(base64.b64decode(envelope["ciphertext"]))
    raw[len(raw) // 2] ^= 1
    return json.dumps({**envelope, "ciphertext": encoded(bytes(raw))}).encode()


def of_another_purpose(content: bytes) -> bytes:
    """Sealed with the right key for something else."""
    nonce = bytes(12)
    ciphertext = AESGCMSIV(KEY).encrypt(nonce, b'{"slots":{}}', b"kheish:another-purpose:v2")
    return json.dumps({"version": 2, "nonce": encoded(nonce), "ciphertext": encoded(ciphertext)}).encode()


def of_version_1_called_2(content: bytes) -> bytes:
    return json.dumps({**seal(b'{"slots":{}}', KEY, version=1), "version": 2}).encode()


def key_file(root: Path, mode: int, content: str) -> dict[str, str]:
    path = root / "master.key"
    path.write_text(content)
    path.chmod(mode)
    return {FILE_VARIABLE: str(path)}


RESTORE = ("Give the key it was written with, or restore the file from a backup",)
CASES = {
    "another key": Case(environment=lambda root: {VARIABLE: encoded(OTHER_KEY)}, says=RESTORE, key_only=True),
    "no key": Case(environment=lambda root: {}, says=("encrypted", VARIABLE, FILE_VARIABLE), key_only=True),
    "truncated": Case(damage=lambda content: content[: len(content) // 2], says=("Restore the file from a backup",)),
    "empty": Case(damage=lambda content: b"", says=("Restore the file from a backup",)),
    "one bit": Case(damage=flipped, says=RESTORE),
    "another purpose": Case(damage=of_another_purpose, says=RESTORE),
    "another version": Case(damage=of_version_1_called_2, says=RESTORE),
    "a later version": Case(
        damage=lambda content: json.dumps({**json.loads(content), "version": 3}).encode(),
        says=("version is not 1 or 2",),
    ),
    "everybody's key file": Case(
        environment=lambda root: key_file(root, 0o644, encoded(KEY)),
        says=("every user of this machine can read", "chmod 600", "secrets rekey"),
        key_only=True,
    ),
    "a short key": Case(
        environment=lambda root: key_file(root, 0o600, encoded(KEY[:16])),
        says=("32 raw bytes or base64 of 32 bytes", "secrets generate"),
        key_only=True,
    ),
    "no key file": Case(
        environment=lambda root: {FILE_VARIABLE: str(root / "gone.key")},
        says=("gone.key", "cannot be read"),
        key_only=True,
    ),
    "two keys": Case(
        environment=lambda root: {VARIABLE: encoded(KEY), **key_file(root, 0o600, encoded(KEY))},
        says=("mutually exclusive", "Unset one of them"),
        key_only=True,
    ),
}


def run(root: Path, words: tuple[str, ...], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("KHEISH_")}
    command = [sys.executable, "-m", "kheish", *words, "--state-root", str(root / "state")]
    given = {**env, "PYTHONPATH": str(Path("src").absolute()), "NEW": SECRET, **environment}
    return subprocess.run(command, cwd=root, env=given, capture_output=True, text=True, timeout=60)


def files(root: Path) -> dict[str, bytes]:
    found = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    found.pop("state/daemon.lock", None)  # says which process looked last
    return found


@pytest.mark.parametrize("case", CASES)
def test_a_store_or_key_that_cannot_be_used_is_explained_and_nothing_is_overwritten(tmp_path: Path, case: str) -> None:
    given = CASES[case]
    record = {"slot_id": "a", "provider": "generic", "mode": "opaque_secret", "state": {"value": SECRET}}
    offline.set_slot(tmp_path / "state", record, {VARIABLE: encoded(KEY)})
    store = tmp_path / "state" / PLACE
    store.write_bytes(given.damage(store.read_bytes()))
    (tmp_path / "new.key").write_text(encoded(bytes(range(2, 34))))
    (tmp_path / "new.key").chmod(0o600)
    environment = given.environment(tmp_path)
    before = files(tmp_path)

    for name, words in COMMANDS.items():
        done = run(tmp_path, words, environment)

        assert done.returncode != 0, name
        for text in given.says:
            assert text in done.stderr, (name, done.stderr)
        if not given.key_only or case in ("another key", "no key"):
            assert str(store) in done.stderr, name
            assert "Nothing was changed" in done.stderr, name
        for secret in (SECRET, encoded(KEY), encoded(OTHER_KEY)):
            assert secret not in done.stderr + done.stdout, name
        assert "Traceback" not in done.stderr, name
        assert files(tmp_path) == before, name
