"""Time limits of a model call."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How long a model call may take, in seconds."""

    inactivity: float = 90.0
    """Without a single received byte; keep-alive comments count as bytes."""
    whole: float = 240.0
    """From sending to the end of the reply."""
