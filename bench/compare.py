"""What moved between two runs of the bench, outside of the spread of both. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bench.figures import Figure, Results, Spread
from bench.report import LIMIT, spread

_LEAST_MOVE = 0.05
"""Of the larger figure."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Move:
    """One figure that is elsewhere now."""

    key: str
    row: str
    by: Literal["ratio", "absolute"]
    """Ratios were taken side by side; absolutes belong to their machine and minute."""
    unit: str
    before: Spread
    after: Spread
    way: Literal["better", "worse"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    moved: tuple[Move, ...]
    steady: int
    """Figures of both runs that did not move."""
    single: tuple[str, ...]
    """Keys of figures with one round in both: nothing says how far they spread."""
    gone: tuple[str, ...]
    """Keys that only the first has."""
    new: tuple[str, ...]
    """Keys that only the second has."""
    machine: tuple[tuple[str, float], ...]
    """Each limit of the machine by its row: second / first. What is far from 1 makes absolutes tell little."""


def compare(before: Results, after: Results) -> Comparison:
    """Compare figure by figure; limits of the machine are told apart and judged by nobody."""
    first, second = _by_key(before), _by_key(after)
    both = [key for key in first if key in second]
    figures = [key for key in both if not key.startswith(LIMIT)]
    single = tuple(key for key in figures if first[key].daemon.rounds == second[key].daemon.rounds == 1)
    judged = [key for key in figures if key not in single]
    moves = [_move(first[key], second[key]) for key in judged]
    moved = tuple(move for move in moves if move is not None)
    return Comparison(
        moved=moved,
        steady=len(judged) - len(moved),
        single=single,
        gone=tuple(key for key in first if key not in second),
        new=tuple(key for key in second if key not in first),
        machine=tuple(
            (second[key].row, second[key].daemon.median / first[key].daemon.median)
            for key in both
            if key.startswith(LIMIT) and first[key].daemon.median
        ),
    )


def outside(before: Spread, after: Spread) -> bool:
    """Whether the median moved by more than both spreads together, and the move is worth a line.

    With three rounds each, medians lie outside of each other's rounds by chance in one row of five, and the minutes of
    two runs differ besides. A single round has no spread: only the other's tells.
    """
    by = abs(after.median - before.median)
    return by > _LEAST_MOVE * max(abs(before.median), abs(after.median)) and by > before.width + after.width


def lines(found: Comparison, before: Results, after: Results) -> list[str]:
    """For people."""
    said = [f"compared with {before.scale} results of {before.taken_at} ({before.machine}):"]
    if before.scale != after.scale:
        said.append(f"  NOT ALIKE: those are {before.scale} and these {after.scale}, which measure other loads")
    said += [
        f"  {move.way:<6}  {move.row}: {move.by} {spread(move.before)} -> {spread(move.after)}{_unit(move)}"
        for move in found.moved
    ]
    said.append(f"  {len(found.moved)} moved, {found.steady} stayed within their spread")
    if any(move.by == "absolute" for move in found.moved):
        said.append("  absolutes belong to their machine and minute; ratios were taken side by side")
    if found.machine:
        said.append("  the machine, now / then: " + ", ".join(f"{row} {ratio:.2f}" for row, ratio in found.machine))
    said += [f"  {what}: {', '.join(keys)}" for what, keys in _unjudged(found) if keys]
    return said


def _move(before: Figure, after: Figure) -> Move | None:
    by: Literal["ratio", "absolute"] = "absolute"
    was, now = before.daemon, after.daemon
    if before.ratio is not None and after.ratio is not None:
        by, was, now = "ratio", before.ratio, after.ratio
    if not outside(was, now):
        return None
    better = (now.median > was.median) == (after.better == "higher")
    return Move(
        key=after.key,
        row=after.row,
        by=by,
        unit=after.unit,
        before=was,
        after=now,
        way="better" if better else "worse",
    )


def _unjudged(found: Comparison) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return (("one round in both, not judged", found.single), ("not measured now", found.gone), ("new", found.new))


def _by_key(results: Results) -> dict[str, Figure]:
    return {figure.key: figure for figure in results.figures}


def _unit(move: Move) -> str:
    return f" {move.unit}" if move.by == "absolute" else ""
