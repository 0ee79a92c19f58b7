"""Processes of the bench: started, found by the line that says where they listen, stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

START_DEADLINE_S = 90.0
"""A machine shared with others can be slow, and a past can be long."""
_LOOK_EVERY_S = 0.005
"""Starts are timed by this."""
TOKEN = "opens-a-daemon-of-the-bench"  # noqa: S105  # and nothing else
"""Admin token of the bench's daemons: they run as people run them, with the gate closed."""

_PROCESS_CPU_CLOCK = 2
"""With the process id, a clock of the kernel: finer than the ticks of /proc."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Child:
    """A process that listens."""

    url: str
    pid: int

    def cpu_s(self) -> float | None:
        """Processor time so far, ended threads included; None where another process's clock cannot be read."""
        if sys.platform != "linux":
            return None
        try:
            return time.clock_gettime((~self.pid << 3) | _PROCESS_CPU_CLOCK)
        except OSError:
            return None


@contextmanager
def child(command: list[str], log: Path, token: str | None = TOKEN, *, kept: bool = True) -> Iterator[Child]:
    """A process that listens; see `begun`."""
    with begun(command, log, token, kept=kept) as listening:
        yield listening()


@contextmanager
def begun(
    command: list[str],
    log: Path,
    token: str | None = TOKEN,
    *,
    more: Mapping[str, str] | None = None,
    kept: bool = True,
) -> Iterator[Callable[[], Child]]:
    """A process that says `ready <url>` or logs it as JSON, and what waits until it did. A daemon asks for ``token``.

    It is stopped on exit and, unless what it wrote is ``kept``, not given the time to do so in order. ``more`` is added
    to its environment.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**environment(token), **(more or {})})
    try:
        yield lambda: Child(url=_url(process, log), pid=process.pid)
    finally:
        if kept:
            process.terminate()
        else:
            process.kill()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()


def environment(token: str | None = TOKEN) -> dict[str, str]:
    """Ours without a proxy and any setting of a daemon, but for the admin token; None leaves the gate open."""
    # With what is compiled once, as after an installation.
    unwanted = {"PYTHONDONTWRITEBYTECODE"}
    bare = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("KHEISH_") and not name.lower().endswith("_proxy") and name not in unwanted
    }
    return bare if token is None else {**bare, "KHEISH_DAEMON_ADMIN_TOKEN": token}


def serve(*, state: Path, workspace: Path, routes: Path, bind: str = "127.0.0.1:0") -> list[str]:
    """The command of a daemon."""
    command = [sys.executable, "-m", "kheish", "serve", "--bind", bind, "--log-format", "json"]
    return [*command, "--state-root", str(state), "--workspace-root", str(workspace), "--routes-file", str(routes)]


def _url(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline and process.poll() is None:
        for line in log.read_text().splitlines():
            if line.startswith("ready "):
                return line.removeprefix("ready ")
            if '"daemon.ready"' in line:
                return str(json.loads(line)["url"])
        time.sleep(_LOOK_EVERY_S)
    raise SystemExit(f"{process.args!r} did not start:\n{log.read_text()}")
