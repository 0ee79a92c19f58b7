"""`kheish-daemon secrets`: offline on files, online over HTTP, with the same rules."""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kheish.auth.envelope import unseal
from kheish.auth.secret_store import PLACE, SecretStore

KEY = bytes(range(32))
SECRET = "sk-hunter2-0123456789"
Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    base = {name: value for name, value in os.environ.items() if not name.startswith("KHEISH_")}
    env = {**base, "KHEISH_AUTH_STORE_MASTER_KEY": base64.b64encode(KEY).decode(), "PYTHONPATH": "src"}

    def run(*words: str, given: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "kheish", *words]
        return subprocess.run(command, env={**env, **more}, input=given, capture_output=True, text=True, timeout=60)

    return run


def offline(root: Path) -> tuple[str, ...]:
    return ("--offline", "--state-root", str(root))


def answer(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def kept(root: Path, slot_id: str) -> str | None:
    slot = SecretStore(root, KEY).find(slot_id)
    return None if slot is None else slot.secret


@pytest.mark.parametrize("words", [(), ("--output", "json")])
def test_a_generated_key_is_one_line_of_base64(cli: Cli, words: tuple[str, ...]) -> None:
    """auth-and-secrets case 1."""
    done = cli(*words, "secrets", "generate")

    assert (len(done.stdout), done.stdout[-1], done.stderr) == (45, "\n", "")
    assert len(base64.b64decode(done.stdout, validate=False)) == 32
    assert cli("secrets", "generate").stdout != done.stdout


def test_a_secret_is_set_offline_sealed_and_rotated(cli: Cli, tmp_path: Path) -> None:
    """auth-and-secrets case 2."""
    root = tmp_path / "state"
    words = ("secrets", "set", "a.b", "--provider", "openai", "--value", SECRET, *offline(root))
    first = answer(cli(*words))
    file = root / PLACE
    before = json.loads(file.read_text())
    second = answer(cli(*words, "--organization", "org"))

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "nonce" in before
    assert SECRET not in file.read_text()
    assert (first["slot_id"], first["provider"], first["mode"]) == ("a.b", "open_ai", "api_key")
    assert SECRET not in json.dumps([first, second])
    assert json.loads(file.read_text())["nonce"] != before["nonce"]
    assert second["updated_at_ms"] >= first["updated_at_ms"]
    assert kept(root, "a.b") == SECRET


def test_a_file_or_standard_input_loses_one_line_end_and_nothing_else(cli: Cli, tmp_path: Path) -> None:
    """auth-and-secrets case 5."""
    root = tmp_path / "state"
    file = tmp_path / "secret"
    for content, expected in (("  s  \n", "  s  "), ("s\r\n", "s"), ("s\n\n", "s\n"), ("s", "s")):
        file.write_bytes(content.encode())
        answer(cli("secrets", "set", "f", "--provider", "generic", "--from-file", str(file), *offline(root)))
        assert kept(root, "f") == expected
    answer(cli("secrets", "set", "i", "--provider", "generic", "--stdin", *offline(root), given=" x \n"))
    answer(cli("secrets", "set", "e", "--provider", "generic", "--from-env", "MINE", *offline(root), MINE=" y "))

    assert (kept(root, "i"), kept(root, "e")) == (" x ", " y ")


@pytest.mark.parametrize(
    ("words", "status", "named"),
    [
        (("set", "a", "--provider", "generic"), 2, "--value, --from-env, --from-file, --stdin"),
        (("set", "a", "--provider", "generic", "--value", "hunter2", "--stdin"), 2, "exactly one"),
        (("set", "a", "--provider", "generic", "--from-env", "NOT_SET"), 1, "NOT_SET"),
        (("set", "a", "--provider", "generic", "--from-file", "/nowhere/x"), 1, "/nowhere/x"),
        (("set", "a", "--provider", "generic", "--value", "  "), 2, "blank"),
        (("set", "connectors.x", "--provider", "openai", "--value", "hunter2"), 2, "generic"),
        (("set", "a", "--provider", "xai", "--value", "hunter2", "--project", "p"), 2, "--project"),
        (("get", "a"), 5, "'a'"),
    ],
)
def test_a_command_that_cannot_be_meant_writes_nothing(
    cli: Cli, tmp_path: Path, words: tuple[str, ...], status: int, named: str
) -> None:
    """auth-and-secrets case 6, and the errors of the value sources."""
    done = cli("secrets", *words, *offline(tmp_path / "state"))

    assert done.returncode == status, done.stderr
    assert named in done.stderr
    assert "hunter2" not in done.stderr + done.stdout
    assert not (tmp_path / "state" / PLACE).exists()


def test_offline_needs_a_state_root(cli: Cli) -> None:
    done = cli("secrets", "list", "--offline")

    assert done.returncode == 1
    assert "--state-root" in done.stderr
    assert "KHEISH_STATE_ROOT" in done.stderr


def test_without_a_daemon_the_way_offline_is_named(cli: Cli) -> None:
    """auth-and-secrets case 7, daemon down."""
    done = cli("--base-url", "http://127.0.0.1:9", "secrets", "list")

    assert done.returncode == 1
    assert "--offline" in done.stderr
    assert "--state-root" in done.stderr


def test_listing_and_deleting_offline(cli: Cli, tmp_path: Path) -> None:
    root = tmp_path / "state"
    for name in ("b", "a"):
        answer(cli("secrets", "set", name, "--provider", "generic", "--value", SECRET, *offline(root)))
    listed = answer(cli("secrets", "list", *offline(root)))
    deleted = answer(cli("secrets", "delete", "a", *offline(root)))
    again = answer(cli("secrets", "delete", "a", *offline(root)))

    assert [row["slot_id"] for row in listed] == ["a", "b"]
    assert (deleted, again) == ({"accepted": True}, {"accepted": False})
    assert (kept(root, "a"), kept(root, "b")) == (None, SECRET)


def test_the_key_is_changed_with_a_backup_that_is_never_overwritten(cli: Cli, tmp_path: Path) -> None:
    root, key_file = tmp_path / "state", tmp_path / "new.key"
    answer(cli("secrets", "set", "a", "--provider", "generic", "--value", SECRET, *offline(root)))
    old = (root / PLACE).read_bytes()
    key_file.write_text(cli("secrets", "generate").stdout)
    key_file.chmod(0o600)
    words = ("secrets", "rekey", "--new-key-file", str(key_file), "--state-root", str(root))
    report = answer(cli(*words))
    with_old = cli("secrets", "list", *offline(root))
    new = {"KHEISH_AUTH_STORE_MASTER_KEY": "", "KHEISH_AUTH_STORE_MASTER_KEY_FILE": str(key_file)}
    with_new = answer(cli("secrets", "list", *offline(root), **new))
    again = cli(*words, **new)

    assert report["slots"] == 1
    assert Path(report["backup_path"]).read_bytes() == old
    assert with_old.returncode == 1
    assert [row["slot_id"] for row in with_new] == ["a"]
    assert (again.returncode, "in use" in again.stderr) == (2, True)
    current = tmp_path / "current.key"
    key_file.rename(current)
    key_file.write_text(cli("secrets", "generate").stdout)
    key_file.chmod(0o600)
    held = cli(*words, **{**new, "KHEISH_AUTH_STORE_MASTER_KEY_FILE": str(current)})
    assert (held.returncode, "before-rekey" in held.stderr) == (2, True)


def test_the_store_is_exported_for_an_earlier_daemon(cli: Cli, tmp_path: Path) -> None:
    root, target = tmp_path / "state", tmp_path / "v1.json"
    answer(cli("secrets", "set", "a", "--provider", "generic", "--value", SECRET, *offline(root)))
    words = ("secrets", "export", "--envelope-v1", "--to", str(target), "--state-root", str(root))
    report = answer(cli(*words))
    again = cli(*words)

    envelope = json.loads(target.read_text())
    assert (report["slots"], envelope["version"], stat.S_IMODE(target.stat().st_mode)) == (1, 1, 0o600)
    assert json.loads(unseal(envelope, KEY))["slots"]["a"]["state"] == {"value": SECRET}
    assert (again.returncode, "exists already" in again.stderr) == (2, True)
