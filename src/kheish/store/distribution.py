"""How values are spread, counted per upper bound: cheap enough for every commit."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from kheish.core.values import value_class


@value_class(frozen=True, kw_only=True, slots=True)
class Spread:
    """A copy of a distribution at one moment."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    """Values at most as large as each bound and larger than the one before; the last count is of those above all."""
    total: float
    """The sum of all values."""


class Distribution:
    """Counts values; one thread adds, any thread reads."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._total = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def spread(self) -> Spread:
        return Spread(bounds=self._bounds, counts=tuple(self._counts), total=self._total)
