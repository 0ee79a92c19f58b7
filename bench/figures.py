"""What the bench finds: one figure a row, the daemon's beside another's of the same run."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

_FEW_ROUNDS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """The rounds of one figure."""

    median: float
    low: float
    """The lowest of few rounds; of many, where their middle half begins: the lowest of more is lower."""
    high: float
    rounds: int = 3

    @property
    def width(self) -> float:
        """How far the rounds lie apart."""
        return self.high - self.low

    @classmethod
    def of(cls, rounds: Sequence[float]) -> Spread:
        low, high = min(rounds), max(rounds)
        if len(rounds) > _FEW_ROUNDS:
            low, _, high = statistics.quantiles(rounds, n=4, method="inclusive")
        return cls(median=statistics.median(rounds), low=low, high=high, rounds=len(rounds))


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One row of the table."""

    key: str
    """Stays the same for ever: what a later run is compared by."""
    row: str
    """What was measured, for people."""
    unit: str
    daemon: Spread
    beside: Spread | None = None
    """The same of what it is compared with; None for a figure that stands alone."""
    beside_name: str = "floor"
    ratio: Spread | None = None
    """daemon / beside of each round, which took place side by side."""
    better: Literal["higher", "lower"] = "lower"
    aim: str = ""
    """What is wanted, in words: `at least 0.4` is of the ratio, `at most 90 MB` of the figure in its own unit."""
    note: str = ""


def figure(
    key: str,
    row: str,
    unit: str,
    daemon: Sequence[float],
    beside: Sequence[float] | None = None,
    *,
    beside_name: str = "floor",
    better: Literal["higher", "lower"] = "lower",
    aim: str = "",
    note: str = "",
) -> Figure:
    """A figure from its rounds; those of ``daemon`` and ``beside`` belong together one by one."""
    return Figure(
        key=key,
        row=row,
        unit=unit,
        daemon=Spread.of(daemon),
        beside=None if beside is None else Spread.of(beside),
        beside_name=beside_name,
        ratio=None if beside is None else Spread.of([mine / bare for mine, bare in zip(daemon, beside, strict=True)]),
        better=better,
        aim=aim,
        note=note,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """Everything one run of the bench found."""

    scale: Literal["quick", "full"]
    rounds: int
    taken_at: str
    """UTC, to the minute."""
    machine: str
    """In words, as `2 cores, Linux, Python 3.11.7`."""
    figures: tuple[Figure, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """How much is measured."""

    quick: bool
    rounds: int = 3

    def times(self, full: int, quick: int) -> int:
        """A count that a quick run keeps small."""
        return quick if self.quick else full
