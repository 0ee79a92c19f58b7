"""The Compose project, typed as docs/container.md has it, on a copy of the repository."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.container.engine import BUILD_S, CALL_S, IMAGE, SCRIPT, SCRIPTED, Engine, source_copy
from tests.e2e.daemon_process import wait_for

pytestmark = [pytest.mark.container, pytest.mark.timeout(1200)]

URL = "http://127.0.0.1:4000"
PROVIDER_KEY = "sk-hunter2-provider-key"


class Project:
    """A copy of the repository in which the commands of the documentation are typed."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self.folder = folder
        self.files = ["docker/compose.yaml"]
        self.variables: dict[str, str] = {}
        self.secrets = folder / "docker" / "secrets"

    def compose(self, *words: str, timeout: float = CALL_S) -> subprocess.CompletedProcess[str]:
        files = [word for file in self.files for word in ("-f", file)]
        env = {**self.engine.env, "OPENAI_API_KEY": PROVIDER_KEY, **self.variables}
        command = [*self.engine.compose, *files, *words]
        return subprocess.run(
            command, cwd=self.folder, env=env, capture_output=True, text=True, timeout=timeout, check=False
        )

    def ok(self, *words: str, timeout: float = CALL_S) -> str:
        done = self.compose(*words, timeout=timeout)
        assert done.returncode == 0, (words, done.stdout[-2000:], done.stderr[-4000:])
        return done.stdout

    def secret(self, name: str, content: str) -> None:
        self.secrets.mkdir(exist_ok=True)
        (self.secrets / name).write_text(content)
        (self.secrets / name).chmod(0o600)

    def bootstrap(self) -> None:
        """The documented preparation: image, master key, admin token, the route's secret."""
        self.ok("build", "daemon", timeout=BUILD_S)
        program = self.engine.program
        key = self.engine.ok(
            "run", "--rm", "--entrypoint", "/usr/local/bin/kheish-daemon", IMAGE, "secrets", "generate"
        )
        made = "tr -dc A-Za-z0-9 </dev/urandom | head -c 48"
        token = self.engine.ok("run", "--rm", "--entrypoint", "/bin/sh", IMAGE, "-lc", made)
        assert (len(key), len(token)) == (45, 48), program
        self.secret("auth-store-master-key.txt", key)
        self.secret("admin-token.txt", token)
        self.set_secret()

    def set_secret(self) -> None:
        self.ok(
            *("run", "--rm", "-e", f"OPENAI_API_KEY={PROVIDER_KEY}", "daemon"),
            *("secrets", "set", "openai.prod", "--offline", "--state-root", "/var/lib/kheish/state"),
            *("--provider", "openai", "--from-env", "OPENAI_API_KEY"),
        )

    @property
    def token(self) -> str:
        return (self.secrets / "admin-token.txt").read_text()

    def get(self, path: str, token: str | None = None) -> httpx2.Response:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return httpx2.get(URL + path, headers=headers, timeout=CALL_S)

    def up(self, *words: str) -> None:
        self.ok("up", "-d", *words)
        wait_for(self._answers, "the project did not become ready", self.logs)

    def _answers(self) -> bool:
        try:
            return self.get("/readyz").status_code == 200
        except httpx2.RequestError:
            return False

    def logs(self) -> str:
        done = self.compose("logs", "daemon")
        return done.stdout + done.stderr

    def cli(self, *words: str) -> str:
        return self.ok("exec", "-T", "daemon", "kheish-daemon", *words)

    def container(self) -> str:
        names = self.engine.ok("ps", "-a", "--format", "{{.Names}}").split()
        return next(name for name in names if name.endswith(("_daemon_1", "-daemon-1")))

    def exit_status(self) -> int:
        return int(self.engine.inspect(self.container())["State"]["ExitCode"])


@pytest.fixture
def project(engine: Engine, tmp_path: Path) -> Iterator[Project]:
    made = Project(engine, source_copy(tmp_path / "kheish"))
    yield made
    made.compose("down", "-v")


def test_the_documented_workflow_line_by_line(project: Project) -> None:
    """Cases 14, 15, 17, 18 and 19."""
    project.bootstrap()
    project.up()
    assert (project.get("/healthz").text, project.get("/readyz").text) == ("ok\n", "ready\n")
    assert project.get("/v1/runtime").status_code == 401
    assert project.get("/v1/runtime", project.token).status_code == 200
    assert '"demo"' in project.cli("sessions", "create", "demo")
    assert '"ready": true' in project.cli("status")
    if project.engine.program == "docker":
        health = "{{.State.Health.Status}}"
        wait_for(
            lambda: project.engine.ok("inspect", "-f", health, project.container()).strip() == "healthy", "not healthy"
        )
    else:
        project.engine.ok("healthcheck", "run", project.container())

    for text in (project.logs(), project.engine.ok("inspect", project.container())):
        assert project.token not in text
        assert "hunter2" not in text
    project.ok("stop")
    assert project.exit_status() == 0

    project.ok("down")
    project.up()
    assert '"demo"' in project.cli("sessions", "list")
    assert "openai.prod" in project.cli("secrets", "list")

    right = (project.secrets / "auth-store-master-key.txt").read_text()
    project.secret("auth-store-master-key.txt", "A" * 43 + "=")
    project.compose("up", "-d", "--force-recreate")
    wait_for(lambda: "cannot be read" in project.logs(), "another key was accepted", project.logs)
    project.secret("auth-store-master-key.txt", right)
    project.up("--force-recreate")
    assert "openai.prod" in project.cli("secrets", "list")

    project.secret("admin-token.txt", "another-token-of-the-operator")
    project.up("--force-recreate")
    assert project.get("/v1/runtime", "another-token-of-the-operator").status_code == 200


def test_the_hardened_profile_serves_and_can_write_where_it_must(project: Project) -> None:
    project.bootstrap()
    project.files.append("docker/compose.hardened.yaml")
    project.up()

    found = project.engine.inspect(project.container())
    assert found["HostConfig"]["ReadonlyRootfs"] is True
    assert found["HostConfig"]["PidsLimit"] == 512
    assert found["HostConfig"]["Memory"] == 1 << 30
    assert project.compose("exec", "-T", "daemon", "touch", "/usr/local/bin/x").returncode != 0
    # podman lays a file system of its own over /run, and its mode wins: the health check then goes by KHEISH_BIND.
    address = ("/run/kheish",) if project.engine.program == "docker" else ()
    for folder in ("/tmp", "/var/lib/kheish/home", "/workspace", "/var/lib/kheish/state", *address):
        project.ok("exec", "-T", "daemon", "touch", f"{folder}/written")
    project.ok("exec", "-T", "daemon", "kheish-healthcheck")
    assert project.ok("exec", "-T", "daemon", "id", "-u").strip() == "10001"
    assert "hunter2" not in project.logs()
    project.ok("stop")
    assert project.exit_status() == 0


def test_the_development_override_works_on_a_folder_of_the_host_as_its_owner(project: Project, tmp_path: Path) -> None:
    workspace = tmp_path / "project"
    workspace.mkdir()
    uid = 12345 if os.getuid() == 0 else os.getuid()
    if os.getuid() == 0:
        os.chown(workspace, uid, uid)
    project.bootstrap()
    # The override keeps a state volume of its own, so its secrets are set in it.
    project.files.append("docker/compose.development.yaml")
    project.variables = {
        "KHEISH_UID": str(uid),
        "KHEISH_GID": str(uid),
        "KHEISH_DEV_WORKSPACE": str(workspace),
    }
    (project.folder / "docker" / "routes.example.toml").write_text(SCRIPTED.replace("script.toml", "/workspace/s.toml"))
    (workspace / "s.toml").write_text(SCRIPT)
    project.up()
    project.ok("exec", "-T", "daemon", "touch", "/workspace/made-inside")

    assert (workspace / "made-inside").stat().st_uid == uid
    assert project.ok("exec", "-T", "daemon", "id", "-u").strip() == str(uid)
