"""One process owns a state root."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from kheish.core.problems import Problem

MECHANISM = "flock"


class StateRootLocked(Problem):
    """Another daemon owns this state root."""

    domain, code, status = "storage", "state_root_locked", 409

    def __init__(self, state_root: Path) -> None:
        super().__init__(
            f"The state root {state_root} is already locked by another process (daemon.lock). "
            "Stop it, most likely another daemon, or choose another --state-root."
        )


class StateLock:
    """An exclusive advisory lock on `daemon.lock`; the kernel releases it when the process dies."""

    def __init__(self, state_root: Path) -> None:
        self.path = state_root / "daemon.lock"
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        return self._descriptor is not None

    def acquire(self) -> None:
        """Take the lock and write who holds it.

        Raises:
            StateRootLocked: another process has it.
            OSError: the file cannot be locked or written; it is not held.
        """
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Truncated before writing: a longer text of an earlier holder must not shine through.
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"pid={os.getpid()}\nmechanism={MECHANISM}\n".encode())
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                raise StateRootLocked(self.path.parent) from error
            raise
        self._descriptor = descriptor

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
