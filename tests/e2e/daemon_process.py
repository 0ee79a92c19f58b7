"""A real daemon as a child process, for tests whose subject is the process, a socket, a signal or a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

DEADLINE_S = 30.0
_POLL_S = 0.01
"""Between looks at another process's files and replies; every wait has a deadline."""


class Daemon:
    """One state root and workspace; the process on it can be killed and started again."""

    def __init__(self, root: Path, *, routes: str, arguments: tuple[str, ...] = (), env: dict[str, str] | None = None):
        self.state_root = root / "state"
        self.workspace = root / "workspace"
        self.workspace.mkdir(parents=True, exist_ok=True)
        self.routes_file = root / "routes.toml"
        self.routes_file.write_text(routes)
        self.log_file = root / "daemon.log"
        self.arguments = arguments
        # A home of its own: the login shells of tools must not run, or break, the developer's profile.
        self.env = {**os.environ, "PYTHONPATH": "src", "HOME": str(root), **(env or {})}
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._log_begin = 0

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def exit_status(self) -> int | None:
        """None while it runs; -9 after SIGKILL."""
        assert self._process is not None
        return self._process.poll()

    @property
    def command(self) -> list[str]:
        places = ["--state-root", str(self.state_root), "--workspace-root", str(self.workspace)]
        rest = ["--routes-file", str(self.routes_file), "--log-format", "json", *self.arguments]
        return [sys.executable, "-m", "kheish", "serve", "--bind", "127.0.0.1:0", *places, *rest]

    def start(self) -> None:
        """Start and wait for the line that says where the daemon listens."""
        self.spawn()
        self.url = wait_for(self.ready_url, "the daemon did not start", self.log)

    def spawn(self, **variables: str) -> None:
        """Start and do not wait; ``variables`` are added to the environment of this process only."""
        self._log_begin = self.log_file.stat().st_size if self.log_file.exists() else 0
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(self.command, stdout=log, stderr=log, env={**self.env, **variables})

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(DEADLINE_S)

    def restart(self) -> None:
        self.kill()
        self.start()

    def terminate(self) -> int:
        """SIGTERM; returns the exit status."""
        return self.end(signal.SIGTERM)

    def end(self, number: int) -> int:
        """Send a signal that ends it; returns the exit status."""
        self.signal(number)
        assert self._process is not None
        return self._process.wait(DEADLINE_S)

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(DEADLINE_S)

    def log(self) -> str:
        return self.log_file.read_text() if self.log_file.exists() else ""

    def ready_url(self) -> str | None:
        """Where the process listens; None as long as it does not say so."""
        if self.exit_status is not None:
            raise AssertionError(f"the daemon exited with {self.exit_status}:\n{self.log()}")
        with self.log_file.open("rb") as log:
            log.seek(self._log_begin)
            lines = log.read().split(b"\n")[:-1]  # what follows the last newline may be half a line
        for line in lines:
            if b"daemon.ready" in line:
                return str(json.loads(line)["url"])
        return None

    # HTTP

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        status: int | tuple[int, ...] = (200, 201, 202),
        **options: Any,
    ) -> Any:
        """Send a request and return its JSON; a status other than expected fails the test."""
        response = httpx2.request(method, self.url + path, json=body, timeout=DEADLINE_S, **options)
        expected = (status,) if isinstance(status, int) else status
        assert response.status_code in expected, f"{method} {path}: {response.status_code} {response.text}"
        return response.json()

    def session(self, name: str = "demo") -> str:
        self.call("POST", "/v1/sessions", {"session_id": name})
        return name

    def submit(self, session: str, content: str = "go", **fields: object) -> str:
        view = self.call("POST", f"/v1/sessions/{session}/runs", {"content": content, **fields}, status=202)
        return str(view["run_id"])

    def run(self, run_id: str) -> dict[str, Any]:
        view: dict[str, Any] = self.call("GET", f"/v1/runs/{run_id}")
        return view

    def wait(self, run_id: str, *statuses: str) -> dict[str, Any]:
        """Wait until the run has one of the statuses (default: a terminal one)."""
        wanted = statuses or ("completed", "failed", "interrupted", "cancelled")

        def look() -> dict[str, Any] | None:
            view = self.run(run_id)
            return view if view["status"] in wanted else None

        return wait_for(look, f"{run_id} did not reach {wanted}", lambda: json.dumps(self.run(run_id)) + self.log())

    def events(self, run_id: str) -> list[dict[str, Any]]:
        return [entry["event"] for entry in self.call("GET", f"/v1/runs/{run_id}/events")]

    def event_types(self, run_id: str) -> list[str]:
        return [event["type"] for event in self.events(run_id)]

    def allow_all(self, run_id: str) -> dict[str, Any]:
        view = self.wait(run_id, "waiting_for_approval")
        resolutions = [{"request_id": one, "behavior": "allow"} for one in view["pending_approval_ids"]]
        answer: dict[str, Any] = self.call("POST", f"/v1/runs/{run_id}/approvals", {"resolutions": resolutions})
        return answer

    @contextmanager
    def stream(self, path: str, **options: Any) -> Iterator[Iterator[dict[str, str]]]:
        """Open an event stream; yields frames as dicts of their fields."""
        with httpx2.stream("GET", self.url + path, timeout=DEADLINE_S, **options) as response:
            assert response.status_code == 200, response.read()
            yield _frames(response)


def _frames(response: httpx2.Response) -> Iterator[dict[str, str]]:
    frame: dict[str, str] = {}
    for line in response.iter_lines():
        if line:
            name, _, value = line.partition(":")
            if name:
                frame[name] = value.removeprefix(" ")
        elif frame:
            yield frame
            frame = {}


def wait_for(look: Callable[[], Any], complaint: str, more: Callable[[], str] = str) -> Any:
    """Look until there is something to see; fail after the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(_POLL_S)
    raise AssertionError(f"{complaint}\n{more()}")


def wait_for_text(path: Path, text: str) -> None:
    wait_for(lambda: path.exists() and text in path.read_text(), f"{path} never said {text!r}")
