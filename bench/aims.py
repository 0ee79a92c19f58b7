"""Aims, read from their words: whether a figure meets its own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from bench.figures import Figure, Spread

Verdict = Literal["met", "not met", ""]
_WORDS = re.compile(r"(at least|at most|over|under|within) ([\d,]+(?:\.\d+)?)\s*(\S*)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Aim:
    """A bound for the median."""

    at_least: bool
    value: float
    of_ratio: bool
    """Else of the figure itself, in its own unit."""

    def judged(self, figure: Figure) -> Spread:
        """What of the figure the bound is for."""
        return figure.ratio if self.of_ratio and figure.ratio is not None else figure.daemon


def aim(figure: Figure) -> Aim | None:
    """Read the figure's aim: for its ratio, unless it names the figure's own unit or there is no ratio."""
    asked = _WORDS.search(figure.aim)
    if asked is None:
        return None
    direction, number, unit = asked.groups()
    return Aim(
        at_least=direction in ("at least", "over"),
        value=float(number.replace(",", "")),
        of_ratio=figure.ratio is not None and unit.rstrip(",;.") != figure.unit,
    )


def verdict(figure: Figure) -> Verdict:
    """Whether the median meets the aim; empty where there is none."""
    asked = aim(figure)
    if asked is None:
        return ""
    median = asked.judged(figure).median
    return "met" if (median >= asked.value if asked.at_least else median <= asked.value) else "not met"
