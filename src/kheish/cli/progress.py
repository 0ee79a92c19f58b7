"""How far a long command is, on a terminal only."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from kheish.cli.output import printable

_EVERY_S = 0.1
_WIDTH = 78


class Progress:
    """One line on standard error that is rewritten; nothing when that is no terminal."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._shown_at = 0.0
        self._terminal = sys.stderr.isatty()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._terminal and self._shown_at:
            self._write("")

    def step(self, name: str) -> None:
        """What is being worked on."""
        self._show(f"{self._what}: {name}")

    def _show(self, text: str) -> None:
        now = time.monotonic()
        if self._terminal and now - self._shown_at >= _EVERY_S:
            self._shown_at = now
            self._write(text)

    def _write(self, text: str) -> None:
        sys.stderr.write("\r" + printable(text)[:_WIDTH].ljust(_WIDTH) + ("" if text else "\r"))
        sys.stderr.flush()
