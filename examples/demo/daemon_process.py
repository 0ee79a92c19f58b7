"""A daemon as a child process, for the demo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

DEADLINE_S = 30.0
_POLL_S = 0.05


class DaemonProcess:
    """Starts `kheish-daemon serve` on a free loopback port and stops it on exit."""

    def __init__(self, *, state_root: Path, workspace: Path, arguments: list[str]) -> None:
        self._state_root = state_root
        self._command = [sys.executable, "-m", "kheish", "serve", "--bind", "127.0.0.1:0"]
        self._command += ["--state-root", str(state_root), "--workspace-root", str(workspace)]
        self._command += ["--permission-mode", "accept-edits", "--log-format", "json", *arguments]
        self._log = state_root.parent / "daemon.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def __enter__(self) -> DaemonProcess:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(DEADLINE_S)

    def start(self) -> None:
        """Start and wait until the daemon says where it listens."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        known = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, env=dict(os.environ))
        self.url = self._ready_url(known)

    def kill(self) -> None:
        """SIGKILL: no chance to tidy up."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(DEADLINE_S)

    def wait_for_file(self, path: Path, text: str) -> None:
        """Wait until ``path`` contains ``text``."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            if path.exists() and text in path.read_text():
                return
            time.sleep(_POLL_S)
        raise SystemExit(f"{path} did not say {text!r} within {DEADLINE_S:.0f} s")

    def _ready_url(self, after: int) -> str:
        assert self._process is not None
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline and self._process.poll() is None:
            for line in self._log.read_bytes()[after:].splitlines():
                if b"daemon.ready" in line:
                    return str(json.loads(line)["url"])
            time.sleep(_POLL_S)
        raise SystemExit("the daemon did not start:\n" + self._log.read_text())
