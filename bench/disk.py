"""What a run leaves on the disk: the growth of the state root, beside that of the floor's database."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from bench.figures import Figure, Scale, figure
from bench.sides import NO_TOOL, ONE_TOOL, Kind, Side, Sides, drive

_SESSIONS = 4
_SCALE = (60, 10)
"""Runs of each session in one round of a full and of a quick run."""
_QUICK_ROUNDS = 2
"""Rounds lie within a few percent of each other."""
_FLOOR_TIMES = 5
"""The floor's rows are small, and its database grows by whole pages."""


async def disk(both: Sides, scale: Scale) -> list[Figure]:
    """Kilobytes per run, without and with a tool."""
    return [await _figure(both, kind, scale) for kind in (NO_TOOL, ONE_TOOL)]


async def _figure(both: Sides, kind: Kind, scale: Scale) -> Figure:
    found: dict[str, list[float]] = {"daemon": [], "floor": []}
    for number in range(scale.times(scale.rounds, _QUICK_ROUNDS)):
        for side in both.in_turn(number, pairs=1):
            found[side.name].append(await _grown_kb(both, side, kind, f"disk-{number}", scale.times(*_SCALE)))
    return figure(
        f"disk.{kind.key}",
        f"disk space of a run, {kind.label}",
        "KB",
        found["daemon"],
        found["floor"],
        note="journal, views, audit trail and events, whose window ends at 100,000; 10 runs a session",
    )


async def _grown_kb(both: Sides, side: Side, kind: Kind, tag: str, runs: int) -> float:
    runs *= _FLOOR_TIMES if side.name == "floor" else 1
    before = _bytes(both, side)
    await drive(side, kind, tag, sessions=_SESSIONS, runs=runs)
    return (_bytes(both, side) - before) / (_SESSIONS * runs) / 1024


def _bytes(both: Sides, side: Side) -> int:
    """With what the write-ahead log holds moved into the database, whose companion files count too."""
    place = both.place
    database = place.state / "kheish.db" if side.name == "daemon" else place.root / "floor.db"
    with closing(sqlite3.connect(database)) as connection:
        busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert not busy, f"{database} was in use: its log is not in it"
    files = place.state.rglob("*") if side.name == "daemon" else place.root.glob(f"{database.name}*")
    return sum(each.stat().st_size for each in files if each.is_file())
