"""How long a start takes: of a daemon with nothing, with a long past and with runs to go on with.

A start is timed from the making of the process to the first `GET /readyz` that answers 200. Beside it stands the start
of the floor, an interpreter with the same HTTP server and no features, to its first answer: what the machine and the
minute ask of anybody.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import shutil
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from bench.commands import commands
from bench.copies import copy_session
from bench.figures import Figure, Scale, figure
from bench.memory import resident_mb
from bench.processes import TOKEN, Child, child, serve
from bench.seeding import Place, Template, live, seeding, templates
from kheish.engine import entries as e

PAST_SESSIONS = 10_000
UNFINISHED_PER_KIND = 40
"""Waiting for an approval, queued behind that, cut off in a model call, in a tool call, right after one."""
DEADLINE_S = 120.0
_HERE = Path(__file__).parent
_LOOK_EVERY_S = 0.005
_LOOK_AT_RUNS_EVERY_S = 0.02
"""A status page costs the daemon something, and it is busy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Start:
    """One start."""

    ready_s: float
    ready_cpu_s: float
    ready_mb: float
    settled_s: float = 0.0
    """Until nothing runs any more: from the making of the process as well."""


def measure(scale: Scale) -> list[Figure]:
    """Rows of starts and of commands."""
    with tempfile.TemporaryDirectory(prefix="kheish-bench-") as folder:
        place = Place(root=Path(folder))
        place.prepare()
        live_runs = asyncio.run(_seed_live(place))
        asyncio.run(live(place, place.root / "past", {"seed": "hi"}))
        copy_session(place.root / "past" / "kheish.db", "seed", "past", sessions=PAST_SESSIONS - 1)
        found: dict[str, list[_Start]] = {"floor": [], "empty": [], "past": [], "live": []}
        for number in range(scale.rounds):
            for kind in found if number % 2 == 0 else reversed(found):
                found[kind].append(_floor(place) if kind == "floor" else _daemon(place, kind))
        return [*_start_rows(found, live_runs), *commands(scale)]


def _start_rows(found: dict[str, list[_Start]], live_runs: int) -> list[Figure]:
    ready = {kind: [start.ready_s for start in starts] for kind, starts in found.items()}
    empty, past, live_ = "empty state", f"{PAST_SESSIONS:,} past sessions", f"{live_runs} live runs"
    settled = [start.settled_s for start in found["live"]]
    over_empty = partial(figure, beside_name=empty)
    return [
        figure(
            "start.ready_empty",
            f"start to ready, {empty}",
            "s",
            ready["empty"],
            ready["floor"],
            aim="ready within 1.2 s",
        ),
        over_empty(
            "start.ready_10000", f"start to ready, {past}", "s", ready["past"], ready["empty"], aim="at most 2 x"
        ),
        over_empty("start.ready_live", f"start to ready, {live_}", "s", ready["live"], ready["empty"]),
        over_empty("start.settled_live", f"start to all {live_} over or waiting", "s", settled, ready["empty"]),
        *_processor_rows(found, past),
        *_memory_rows(found, past),
    ]


def _processor_rows(found: dict[str, list[_Start]], past: str) -> list[Figure]:
    """None where the system does not tell."""
    spent = {kind: [start.ready_cpu_s for start in starts] for kind, starts in found.items()}
    if not all(map(all, spent.values())):
        return []
    row = "processor time until ready"
    return [
        figure("start.cpu_empty", f"{row}, empty state", "s", spent["empty"], spent["floor"]),
        figure("start.cpu_10000", f"{row}, {past}", "s", spent["past"], spent["empty"], beside_name="empty state"),
    ]


def _memory_rows(found: dict[str, list[_Start]], past: str) -> list[Figure]:
    held = {kind: [start.ready_mb for start in starts] for kind, starts in found.items()}
    row = "memory when ready"
    return [
        figure("memory.idle", f"{row}, empty state", "MB", held["empty"], held["floor"], aim="at most 90 MB"),
        figure("memory.idle_10000", f"{row}, {past}", "MB", held["past"], held["empty"], beside_name="empty state"),
    ]


async def _seed_live(place: Place) -> int:
    """Make the state root of a daemon that was killed at work; returns how many unfinished runs it has."""
    made = await templates(place)
    look, ask = made["look"], made["ask"]
    kinds: list[list[Template]] = [
        [ask, look.first(e.InputAccepted)],
        [look.first(e.RunStarted)],
        [look.first(e.ToolIntended)],
        [look.first(e.ToolFinished)],
    ]
    unfinished = [kind for kind in kinds for _ in range(UNFINISHED_PER_KIND)]
    async with seeding(place) as seed:
        await seed.sessions([(f"session-{number}", [look, *runs]) for number, runs in enumerate(unfinished)])
    place.state.rename(place.root / "killed")
    return sum(len(runs) for runs in unfinished)


def _floor(place: Place) -> _Start:
    shutil.rmtree(place.state, ignore_errors=True)
    place.state.mkdir()
    nowhere = "http://127.0.0.1:9"
    command = [sys.executable, str(_HERE / "floor.py"), str(place.state / "floor.db"), str(place.workspace), nowhere]
    began = time.perf_counter()
    with child(command, place.root / "floor.log") as process:
        _until_answered(process, "/", None)
        return _ready(process, began)


def _daemon(place: Place, kind: str) -> _Start:
    state = place.root / "past" if kind == "past" else place.state
    if kind != "past":
        shutil.rmtree(state, ignore_errors=True)
    if kind == "live":
        shutil.copytree(place.root / "killed", state)
    command = serve(state=state, workspace=place.workspace, routes=place.routes)
    began = time.perf_counter()
    # What a past leaves is used again, and is to be found as it was.
    with child(command, place.root / "daemon.log", kept=kind == "past") as process:
        _until_answered(process, "/readyz", 200)
        ready = _ready(process, began)
        _until_settled(process)
        return replace(ready, settled_s=time.perf_counter() - began)


def _ready(process: Child, began: float) -> _Start:
    ready_s = time.perf_counter() - began
    return _Start(ready_s=ready_s, ready_cpu_s=process.cpu_s() or 0.0, ready_mb=resident_mb(process.pid))


def _until_answered(process: Child, path: str, status: int | None) -> None:
    """Ask until there is an answer; of this status, if one is given."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        try:
            answered = _get(process, path)[0]
        except OSError:
            answered = 0
        if answered and status in (None, answered):
            return
        time.sleep(_LOOK_EVERY_S)
    raise SystemExit(f"{process.url} did not get ready")


def _until_settled(process: Child) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while json.loads(_get(process, "/v1/status")[1])["runs"]["running"]:
        if time.monotonic() > deadline:
            raise SystemExit(f"{process.url} did not finish its runs")
        time.sleep(_LOOK_AT_RUNS_EVERY_S)


def _get(process: Child, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(urlsplit(process.url).netloc, timeout=DEADLINE_S)
    with closing(connection):
        connection.request("GET", path, headers={"authorization": f"Bearer {TOKEN}"})
        response = connection.getresponse()
        return response.status, response.read()
