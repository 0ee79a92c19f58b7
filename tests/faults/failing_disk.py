"""A disk that really fails: a few lines of C between a child daemon and its system calls."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SOURCE = Path(__file__).with_name("failing_disk.c")
_COMPILER = shutil.which("cc")
MISSING = None if sys.platform == "linux" and _COMPILER else "needs Linux and a C compiler"
"""Why there is no failing disk here; None when there is one."""


class FailingDisk:
    """Pass `env` to the daemon; its calls fail while `failing` says so."""

    def __init__(self, folder: Path) -> None:
        assert _COMPILER is not None
        library = folder / "failing_disk.so"
        subprocess.run([_COMPILER, "-shared", "-fPIC", "-O1", "-o", library, _SOURCE], check=True)
        self._orders = folder / "failing_disk.orders"
        self.env = {"LD_PRELOAD": str(library), "KHEISH_TEST_DISK": str(self._orders)}

    @contextmanager
    def failing(self, *orders: str) -> Iterator[None]:
        """Each order is `sync`, `write`, `read` or `hang`, a blank, and how the path of the file ends."""
        self.fail(*orders)
        try:
            yield
        finally:
            self.heal()

    def fail(self, *orders: str) -> None:
        fresh = self._orders.with_suffix(".new")
        fresh.write_text("\n".join(orders))
        fresh.rename(self._orders)

    def heal(self) -> None:
        self._orders.unlink(missing_ok=True)
