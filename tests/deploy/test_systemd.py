"""The systemd unit: as systemd reads it, and as the daemon really runs under it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from kheish.daemon.cli import SERVE_OPTIONS
from kheish.daemon.settings import DEFAULT_DRAIN_MS
from tests.e2e.daemon_process import DEADLINE_S

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "systemd"
UNIT = (FOLDER / "kheish-daemon.service").read_text()
EXPOSURE = "25"
"""Of 100 as the analyser counts; the unit has 15."""

analysed = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def settings(name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", UNIT, re.MULTILINE)


def runnable(folder: Path, unit: str = UNIT) -> Path:
    """The unit with an executable that exists on this machine."""
    file = folder / "kheish-daemon.service"
    file.write_text(unit.replace("/opt/kheish/bin/kheish-daemon", str(Path(sys.executable).parent / "kheish-daemon")))
    return file


def analyse(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(("systemd-analyze", *words), capture_output=True, text=True, timeout=60, check=False)


@analysed
def test_systemd_takes_every_line(tmp_path: Path) -> None:
    done = analyse("verify", "--man=no", str(runnable(tmp_path)))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    wrong = analyse("verify", "--man=no", str(runnable(tmp_path, UNIT.replace("ProtectHome=", "ProtectHom="))))
    assert "ProtectHom" in wrong.stderr


@analysed
def test_the_unit_stays_as_closed_as_it_is(tmp_path: Path) -> None:
    unit = runnable(tmp_path)
    assert analyse("security", "--offline=true", f"--threshold={EXPOSURE}", str(unit)).returncode == 0
    open_unit = re.sub(r"^(Protect|Restrict|Private|System|Capability|NoNew)\w+=.*\n", "", UNIT, flags=re.MULTILINE)
    opened = runnable(tmp_path, open_unit)
    assert analyse("security", "--offline=true", f"--threshold={EXPOSURE}", str(opened)).returncode != 0


def test_every_variable_is_one_that_the_daemon_reads() -> None:
    code = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    example = (FOLDER / "kheish.env.example").read_text()
    named = [line.partition("=")[0] for line in settings("Environment")] + re.findall(r"^#(KHEISH_\w+)=", example, re.M)
    options = {str(option.envvar) for option in SERVE_OPTIONS}
    assert [name for name in named if name != "HOME" and name not in code and name not in options] == []
    assert len(named) > 8


def test_a_stop_has_more_time_than_the_drain() -> None:
    assert int(settings("TimeoutStopSec")[0].removesuffix("s")) * 1000 > DEFAULT_DRAIN_MS + 1000
    assert settings("KillMode") == ["mixed"]


@contextmanager
def manager(path: Path) -> Iterator[socket.socket]:
    """What systemd listens on for a unit of Type=notify."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.settimeout(DEADLINE_S)
        yield listener


def test_the_units_own_command_and_environment_serve_report_and_stop(tmp_path: Path) -> None:
    """ExecStart and Environment as they stand, with the specifiers filled in as systemd does."""
    state, credentials = tmp_path / "lib", tmp_path / "credentials"
    for folder in settings("StateDirectory")[0].split():
        (state / folder).mkdir(parents=True, exist_ok=True)
    credentials.mkdir()
    for line in settings("LoadCredential"):
        name = line.partition(":")[0]
        content = "A" * 43 + "=" if name.endswith("key") else "hunter2-admin-token"
        (credentials / name).write_text(content)
        (credentials / name).chmod(0o400)
    routes = tmp_path / "routes.toml"
    routes.write_text(
        '[routes.r]\ndriver = "openai_compatible"\ndefault_model = "m"\nbase_url = "http://127.0.0.1:9"\n'
    )
    given = dict(line.split("=", 1) for line in settings("Environment"))
    filled = {name: value.replace("%S", str(state)).replace("%d", str(credentials)) for name, value in given.items()}
    env = {**filled, "PATH": os.environ["PATH"], "KHEISH_ROUTES_FILE": str(routes), "KHEISH_BIND": "127.0.0.1:0"}
    command = shlex.split(settings("ExecStart")[0])
    command[0] = str(Path(sys.executable).parent / "kheish-daemon")
    with manager(tmp_path / "notify") as listener, (tmp_path / "log").open("wb") as log:
        env["NOTIFY_SOCKET"] = str(tmp_path / "notify")
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=state / "kheish" / "workspace")
        try:
            assert listener.recv(1024) == b"READY=1"
            [url] = re.findall(r'"url": "([^"]+)"', (tmp_path / "log").read_text())
            assert httpx2.get(f"{url}/readyz").status_code == 200
            assert httpx2.get(f"{url}/v1/status").status_code == 401
            header = {"Authorization": "Bearer hunter2-admin-token"}
            assert httpx2.get(f"{url}/v1/status", headers=header).status_code == 200
            process.send_signal(signal.SIGTERM)
            assert listener.recv(1024) == b"STOPPING=1"
            assert process.wait(DEADLINE_S) == 0
        finally:
            process.kill()
            process.wait()
    assert "hunter2" not in (tmp_path / "log").read_text()


def test_the_offline_script_is_a_shell_script_that_names_what_the_unit_names() -> None:
    script = FOLDER / "kheish-offline"
    assert subprocess.run(("sh", "-n", str(script)), check=False).returncode == 0
    text = script.read_text()
    assert "/etc/kheish/credentials/auth-store-master-key" in text
    assert "/var/lib/kheish/state" in text
    assert os.access(script, os.X_OK)
