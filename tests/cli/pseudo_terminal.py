"""A command on a real pseudo terminal, which is its controlling one: keys, Ctrl-C and all."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from types import TracebackType
from typing import Self

DEADLINE_S = 20.0


class OnTerminal:
    """`kheish-daemon` with ``words``; leaving the block ends it."""

    def __init__(self, *words: str, **env: str) -> None:
        self._master, slave = pty.openpty()
        self.output = ""
        self._seen = 0

        def own_terminal() -> None:
            # Whoever runs the tests in the background ignores it, and so would everything they start.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self._process = subprocess.Popen(
            [sys.executable, "-m", "kheish", *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=own_terminal,
            env={**os.environ, "PYTHONPATH": "src", "PYTHONFAULTHANDLER": "1", "TERM": "dumb", "COLUMNS": "200", **env},
        )
        os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(DEADLINE_S)
        os.close(self._master)

    def expect(self, text: str) -> None:
        """Read until ``text`` appears behind what was expected before."""
        deadline = time.monotonic() + DEADLINE_S
        while (found := self.output.find(text, self._seen)) < 0:
            assert time.monotonic() < deadline, f"never saw {text!r}:\n{self.output}"
            assert self._read(), f"ended without {text!r}:\n{self.output}"
        self._seen = found + len(text)

    def type(self, keys: str) -> None:
        """Press keys. Waits until the process sleeps: a signal between a prompt and the wait behind it is lost."""
        deadline = time.monotonic() + DEADLINE_S
        status = Path(f"/proc/{self._process.pid}/stat")
        while status.read_text().rpartition(")")[2].split()[0] != "S":
            assert time.monotonic() < deadline, f"never slept:\n{self.output}"
        os.write(self._master, keys.encode())

    def end(self) -> int:
        """Read to the end; returns the exit status."""
        while self._read():
            pass
        return self._process.wait(DEADLINE_S)

    def _read(self) -> bool:
        ready, _, _ = select.select([self._master], [], [], DEADLINE_S)
        assert ready, f"nothing came for {DEADLINE_S} s:\n{self.output}\n{self._where_it_stands()}"
        try:
            data = os.read(self._master, 65536)
        except OSError:  # how Linux says that the other side is gone
            return False
        self.output += data.decode(errors="replace").replace("\r\n", "\n")
        return bool(data)

    def _where_it_stands(self) -> str:
        """What every thread of the silent process was doing; ends it."""
        self._process.send_signal(signal.SIGABRT)
        self._process.wait(DEADLINE_S)
        return os.read(self._master, 65536).decode(errors="replace").replace("\r\n", "\n")
