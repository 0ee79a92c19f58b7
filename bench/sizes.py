"""What sessions and runs cost in memory and on disk.

Memory is what the system says is resident, before and after. *Idle sessions* are so few that all of them stay in the
cache of recent sessions (256); what an idle session beyond them costs is part of the *growth*. *Live runs* stream from
a slow model.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

import orjson
import uvloop

from bench.disk import disk
from bench.figures import Figure, Scale, figure
from bench.growth import growth
from bench.load import Client, clients, share
from bench.memory import resident_mb
from bench.processes import TOKEN
from bench.sides import NO_TOOL, Sides, drive, sides

AT_ONCE = 32
IDLE_SESSIONS = 64
"""Of one round; those of three rounds and the 48 of the warm-up fit into the cache."""
_SLOW = "stream 600 tokens at 1 per second"
_DEADLINE_S = 240.0
_SETTLED_WITHIN_S = 10.0
_LOOK_EVERY_S = 0.02


def measure(scale: Scale) -> list[Figure]:
    """Rows of memory and disk."""
    with sides("daemon", "floor") as both:
        sized = uvloop.run(_measure(both, scale))
    with sides("daemon") as both:
        return [*sized, uvloop.run(growth(both.daemon, scale))]


async def _measure(both: Sides, scale: Scale) -> list[Figure]:
    rounds = range(scale.rounds)
    async with asyncio.timeout(_DEADLINE_S):
        await drive(both.daemon, NO_TOOL, "warm-up", sessions=8, runs=scale.times(60, 20))
        idle = [await _idle(both, number) for number in rounds]
        live = await _live(both, scale)
        on_disk = await disk(both, scale)
    return [
        figure(
            "memory.idle_session",
            "memory of an idle session",
            "KB",
            [each.kb for each in idle],
            note="of the 256 most recent ones",
        ),
        figure(
            "tasks.idle_sessions",
            f"sessions with a task, of {scale.rounds * IDLE_SESSIONS} that are idle",
            "sessions",
            [each.tasks for each in idle],
            aim="at most 0",
        ),
        figure("memory.live_run", "memory of a live run on a slow model", "KB", live),
        *on_disk,
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Idle:
    kb: float
    """Of one session."""
    tasks: int
    """Sessions that have one, of all there are."""


async def _idle(both: Sides, number: int) -> _Idle:
    """Some more sessions that had one run each."""
    pid = both.daemon.child.pid
    before = resident_mb(pid)
    async with clients(both.daemon.child.url, TOKEN, AT_ONCE) as connections:
        await share(connections, [f"idle-{number}-{each}" for each in range(IDLE_SESSIONS)], _converse)
        await _until(connections[0], "sessions", "active", 0)
        tasks = await _status(connections[0], "sessions", "active")
    return _Idle(kb=(resident_mb(pid) - before) * 1024 / IDLE_SESSIONS, tasks=tasks)


async def _converse(client: Client, session_id: str) -> None:
    await client.post("/v1/sessions", {"session_id": session_id})
    await client.post(f"/v1/sessions/{session_id}/input", {"content": NO_TOOL.content})


async def _live(both: Sides, scale: Scale) -> list[float]:
    """Kilobytes of each of some more runs that are under way; each round adds its runs to those before."""
    found: list[float] = []
    at_once = scale.times(100, 40)
    pid = both.daemon.child.pid
    async with clients(both.daemon.child.url, TOKEN, AT_ONCE) as connections, Client(both.model.url) as model:
        for number in range(scale.rounds):
            before = resident_mb(pid)
            await share(connections, [f"live-{number}-{each}" for each in range(at_once)], _begin_slow)
            await _until(connections[0], "runs", "running", (number + 1) * at_once)
            found.append((resident_mb(pid) - before) * 1024 / at_once)
        await model.post("/end", {})
        await _until(connections[0], "runs", "running", 0)
    return found


async def _begin_slow(client: Client, session_id: str) -> None:
    await client.post("/v1/sessions", {"session_id": session_id})
    await client.post(f"/v1/sessions/{session_id}/runs", {"content": _SLOW})


async def _status(client: Client, block: str, name: str) -> int:
    value: int = orjson.loads(await client.get("/v1/status"))[block][name]
    return value


async def _until(client: Client, block: str, name: str, wanted: int) -> None:
    """Look until the status says so; what it says at the deadline is for the caller to see."""
    deadline = time.monotonic() + _SETTLED_WITHIN_S
    while await _status(client, block, name) != wanted and time.monotonic() < deadline:  # noqa: ASYNC110  # a process
        await asyncio.sleep(_LOOK_EVERY_S)
