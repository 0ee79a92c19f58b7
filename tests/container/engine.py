"""A container engine for tests: Docker where it runs, else podman with buildah."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from tests.e2e.daemon_process import wait_for

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "kheish-daemon:local"
CALL_S = 120
BUILD_S = 900
_TOKEN = "hunter2-admin-token"
SCRIPTED = """
version = 1
default_route = "main"

[routes.main]
driver = "scripted"
default_model = "m"
model_support = "any"
script = "script.toml"
"""
SCRIPT = """
[[rules]]
when = { turn = 0, user = "hold" }
calls = [{ tool = "bash", input = { command = "echo began >> began; until [ -e go ]; do sleep 0.05; done; echo on" } }]

[[rules]]
when = { turn = 0, user = "identity" }
calls = [{ tool = "bash", input = { command = "id -u; touch mine && echo written" } }]

[fallback]
text = "done"
"""


class Engine:
    """The command line of the engine that is here."""

    def __init__(self) -> None:
        self.env = dict(os.environ)
        if _runs("docker", "info"):
            self.program, self.compose = "docker", ["docker", "compose"]
            return
        if not (shutil.which("podman") and shutil.which("buildah")):
            _missing("neither Docker nor podman with buildah is here")
        self.program = "podman"
        self.compose = [str(Path(sys.executable).parent / "podman-compose")]
        self.env["BUILDAH_FORMAT"] = "docker"  # keeps the health check
        if not Path("/run/systemd/system").exists():
            self.env["CONTAINERS_CONF"] = str(ROOT / "tests" / "container" / "containers.conf")
            self.env["BUILDAH_ISOLATION"] = "chroot"

    def call(self, *words: str, timeout: float = CALL_S) -> subprocess.CompletedProcess[str]:
        """Run the engine and return what it said, whatever its status."""
        command = [self.program, *words]
        return subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=timeout, check=False)

    def ok(self, *words: str, timeout: float = CALL_S) -> str:
        """Run the engine; fail unless its status is 0."""
        done = self.call(*words, timeout=timeout)
        assert done.returncode == 0, (words, done.stdout[-2000:], done.stderr[-4000:])
        return done.stdout

    def build(self, context: Path, *words: str, tag: str = IMAGE) -> None:
        """Build an image from a folder."""
        with _alone():
            self.ok("build", "--network=host", "-t", tag, *words, str(context), timeout=BUILD_S)

    def inspect(self, name: str) -> Any:
        return json.loads(self.ok("inspect", name))[0]


class Container:
    """One container of the image; `run` in the background, gone at the end of the test."""

    def __init__(self, engine: Engine, *options: str, command: tuple[str, ...] = (), image: str = IMAGE) -> None:
        self.engine = engine
        self.name = f"kheish-test-{uuid4().hex[:12]}"
        engine.ok("run", "-d", "--name", self.name, "-p", "127.0.0.1::4000", *options, image, *command)

    @property
    def url(self) -> str:
        published = self.engine.ok("port", self.name, "4000/tcp").split()[-1]
        return f"http://{published}"

    def get(self, path: str, token: str | None = _TOKEN) -> httpx2.Response:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return httpx2.get(self.url + path, headers=headers, timeout=CALL_S)

    def post(self, path: str, body: Mapping[str, object]) -> Any:
        headers = {"Authorization": f"Bearer {_TOKEN}"}
        response = httpx2.post(self.url + path, headers=headers, json=body, timeout=CALL_S)
        assert response.is_success, response.text
        return response.json()

    def ready(self) -> Container:
        """Wait until the daemon answers."""
        wait_for(self._answers, "the container did not become ready", self.logs)
        return self

    def _answers(self) -> bool:
        assert self.running, self.logs()
        try:
            return self.get("/readyz", None).status_code == 200
        except httpx2.RequestError:
            return False

    @property
    def running(self) -> bool:
        return bool(self.engine.inspect(self.name)["State"]["Running"])

    def exited(self) -> int:
        """Wait for the end; returns the exit status."""
        return int(self.engine.ok("wait", self.name).split()[-1])

    def exec(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.engine.call("exec", self.name, *words)

    def said(self, *words: str) -> str:
        done = self.exec(*words)
        assert done.returncode == 0, (words, done.stdout[-2000:], done.stderr[-2000:])
        return done.stdout

    def logs(self) -> str:
        done = self.engine.call("logs", self.name)
        return done.stdout + done.stderr

    def stop(self, signal: str = "SIGTERM") -> int:
        """Ask for the end, and return the exit status."""
        self.engine.ok("kill", "--signal", signal, self.name)
        return self.exited()

    def remove(self) -> None:
        self.engine.call("rm", "-f", "-v", self.name)


@contextmanager
def container(engine: Engine, *options: str, command: tuple[str, ...] = (), image: str = IMAGE) -> Iterator[Container]:
    """A container for the length of a block."""
    made = Container(engine, *options, command=command, image=image)
    try:
        yield made
    finally:
        made.remove()


@contextmanager
def volume(engine: Engine) -> Iterator[str]:
    """A named volume for the length of a block."""
    name = f"kheish-test-{uuid4().hex[:12]}"
    engine.ok("volume", "create", name)
    try:
        yield name
    finally:
        engine.call("volume", "rm", "-f", name)


def scripted(folder: Path) -> tuple[str, ...]:
    """Options of a container with a scripted model and an admin token that its user can read."""
    folder.mkdir(exist_ok=True)
    (folder / "routes.toml").write_text(SCRIPTED)
    (folder / "script.toml").write_text(SCRIPT)
    (folder / "token").write_text(_TOKEN)
    for file in folder.iterdir():
        file.chmod(0o444)
    return (
        *("-v", f"{folder}:/etc/kheish:ro"),
        *("-e", "KHEISH_ROUTES_FILE=/etc/kheish/routes.toml"),
        *("-e", "KHEISH_DAEMON_ADMIN_TOKEN_FILE=/etc/kheish/token"),
        *("-e", "KHEISH_DAEMON_TOKEN_FILE=/etc/kheish/token"),
    )


def source_copy(folder: Path) -> Path:
    """The files of the repository as a clean clone has them, with a wheelhouse for a machine without an index."""
    listed = subprocess.run(
        ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"),
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).is_file():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
    fill_wheelhouse(folder / "docker" / "wheelhouse")
    return folder


def fill_wheelhouse(folder: Path) -> None:
    """Download what the image installs, for its interpreter, checked against the lock files."""
    for lock in ("requirements-build.lock", "requirements.lock"):
        subprocess.run(
            (
                *(sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-input"),
                *("--no-deps", "--only-binary", ":all:", "--python-version", "3.11", "--require-hashes"),
                *("-d", str(folder), "-r", str(ROOT / lock)),
            ),
            check=True,
            capture_output=True,
            timeout=BUILD_S,
        )


@contextmanager
def _alone() -> Iterator[None]:
    """Two workers must not build the same image at once."""
    with open("/tmp/kheish-image-build.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _runs(*command: str) -> bool:
    return shutil.which(command[0]) is not None and not subprocess.run(command, capture_output=True).returncode


def _missing(what: str) -> None:
    if os.environ.get("KHEISH_TEST_ALL"):
        pytest.fail(what)
    pytest.skip(what)
