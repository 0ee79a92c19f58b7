"""Secrets from the command line, with a daemon running."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.daemon_process import Daemon

pytestmark = pytest.mark.e2e

KEY = base64.b64encode(bytes(range(32))).decode()
SECRET = "sk-hunter2-0123456789"


def test_a_running_daemon_keeps_its_store_to_itself(daemon_for: Callable[..., Daemon]) -> None:
    """auth-and-secrets case 7, wrong token."""
    daemon = daemon_for(
        '[routes.main]\ndriver = "openai_compatible"\ndefault_model = "m"\nbase_url = "http://127.0.0.1:9"\n',
        env={"KHEISH_AUTH_STORE_MASTER_KEY": KEY, "KHEISH_DAEMON_ADMIN_TOKEN": "hunter2"},
    )

    def cli(*words: str, token: str = "hunter2") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "kheish", "--base-url", daemon.url, "--token", token, "secrets", *words]
        return subprocess.run(command, env=daemon.env, capture_output=True, text=True, timeout=60)

    def answer(*words: str) -> Any:
        done = cli(*words)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    words = ("set", "a", "--provider", "generic", "--value", SECRET)
    refused = cli(*words, "--offline", "--state-root", str(daemon.state_root))

    assert (refused.returncode, "daemon.lock" in refused.stderr) == (6, True)
    assert answer(*words)["slot_id"] == "a"
    assert [row["slot_id"] for row in answer("list")] == ["a"]
    assert answer("delete", "a") == {"accepted": True}
    assert cli("list", token="wrong").returncode == 4
    assert SECRET not in daemon.log()
