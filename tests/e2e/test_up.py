"""up: a daemon on a machine that has nothing yet."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.daemon_process import Daemon, wait_for
from tests.fakes.model_server import Answer, ModelServer

pytestmark = pytest.mark.e2e


class Up(Daemon):
    """The same process, started with `up` and without routes."""

    @property
    def command(self) -> list[str]:
        places = ["--state-root", str(self.state_root), "--workspace-root", str(self.workspace)]
        return [sys.executable, "-m", "kheish", "up", "--no-open", "--bind", "127.0.0.1:0", *places, *self.arguments]


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    made = Up(tmp_path / "up", routes="", env={"KHEISH_LOG_FORMAT": "json", "UP_KEY": "hunter2-of-the-provider"})
    yield made
    made.stop()


def cli(daemon: Up, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kheish", "--base-url", daemon.url, *words]
    return subprocess.run(command, env=daemon.env, capture_output=True, text=True, timeout=60)


def test_an_empty_machine_gets_a_key_a_secret_a_route_and_an_answer_without_a_restart(up: Up) -> None:
    """Case 19 of the daemon's contract, and what follows it."""
    up.start()
    key = up.state_root / "auth-store-master.key"
    assert (key.stat().st_mode & 0o777, len(key.read_text())) == (0o600, 45)
    wait_for(lambda: f"Kheish ready at {up.url}/" in up.log(), "no welcome", up.log)
    assert "runtime set-route" in up.log()
    up.session()
    with ModelServer(Answer(text="hello")) as server:
        set_secret = cli(up, "secrets", "set", "local.key", "--provider", "generic", "--from-env", "UP_KEY")
        assert set_secret.returncode == 0, set_secret.stderr
        route = {"driver": "openai_compatible", "default_model": "m", "base_url": server.url, "auth_ref": "local.key"}
        added = cli(up, "runtime", "set-route", "local", "--json", json.dumps(route))
        assert added.returncode == 0, added.stderr
        assert up.wait(up.submit("demo"))["status"] == "completed"
        first = key.read_bytes()
        assert up.terminate() == 0
        up.start()
        assert key.read_bytes() == first
        assert up.wait(up.submit("demo"))["status"] == "completed"

    assert [request.headers["authorization"] for request in server.requests] == ["Bearer hunter2-of-the-provider"] * 2
    assert first.decode().strip() not in up.log()
    assert up.log().count("There is no model route yet") == 1


def test_a_key_of_ones_own_is_used_and_none_is_made(up: Up, tmp_path: Path) -> None:
    own = tmp_path / "own.key"
    own.write_text("A" * 43 + "=")
    own.chmod(0o600)
    up.env["KHEISH_AUTH_STORE_MASTER_KEY_FILE"] = str(own)
    up.start()
    assert cli(up, "secrets", "set", "a.key", "--provider", "generic", "--from-env", "UP_KEY").returncode == 0
    assert not (up.state_root / "auth-store-master.key").exists()
    assert up.terminate() == 0

    del up.env["KHEISH_AUTH_STORE_MASTER_KEY_FILE"]
    up.spawn()
    wait_for(lambda: up.exit_status is not None, "a store of another key was opened", up.log)
    assert up.exit_status == 1
    assert "KHEISH_AUTH_STORE_MASTER_KEY_FILE" in up.log()
    assert not (up.state_root / "auth-store-master.key").exists()
