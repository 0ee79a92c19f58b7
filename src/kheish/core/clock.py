"""Time as an argument."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Time; tests inject one they move by hand."""

    def now_ms(self) -> int:
        """Return Unix milliseconds: what the machine's clock says, which somebody may set back."""
        ...

    def elapsed_ms(self) -> int:
        """Return the milliseconds since some moment of this process's life; nothing sets them back."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def elapsed_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000
