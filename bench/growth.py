"""How much memory a daemon has gained after many runs.

Every session has two runs and is never used again. A first part of the same load fills the caches of recent sessions
and of compiled statements, and in a full run lasts as long as a credential lease, of which the last minute's are kept;
what is resident then is what the end is compared with.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from bench.figures import Figure, Scale, figure
from bench.load import Client, clients, share
from bench.memory import peak_mb, resident_mb
from bench.processes import TOKEN
from bench.sides import NO_TOOL, Side
from kheish.auth.broker import ROUTE_LEASE_MS

_AIM_RUNS = 10_000
_RUNS = (_AIM_RUNS, 1_000)
"""In a full and in a quick run."""
_WARM_UP_RUNS = (2_500, 600)
"""Caches of a thousand sessions are full after those of a full run, not of a quick one."""
_RUNS_A_SESSION = 2
_AT_ONCE = 32
_DEADLINE_S = 600.0


async def growth(daemon: Side, scale: Scale) -> Figure:
    """Megabytes; the key names the number of runs, as few cannot show what many would."""
    pid, runs, warm_up_runs = daemon.child.pid, scale.times(*_RUNS), scale.times(*_WARM_UP_RUNS)
    async with asyncio.timeout(_DEADLINE_S), clients(daemon.child.url, TOKEN, _AT_ONCE) as connections:
        warmed = await _warm_up(connections, warm_up_runs, 0 if scale.quick else ROUTE_LEASE_MS / 1000)
        before = resident_mb(pid)
        await share(connections, _sessions("grown", runs), _converse)
        after, peak = resident_mb(pid), peak_mb(pid)
    most = "" if peak is None else f", {peak:.0f} MB at most"
    return figure(
        f"memory.growth_{runs}",
        f"memory growth over {runs:,} runs",
        "MB",
        [after - before],
        aim=f"under 3 MB over {_AIM_RUNS:,} runs" if runs == _AIM_RUNS else "",
        note=f"from {before:.1f} MB after {warmed:,} runs to {after:.1f} MB{most}; 2 runs a session",
    )


async def _warm_up(connections: Sequence[Client], runs: int, least_s: float) -> int:
    """Some runs, and more until ``least_s`` seconds are over; how many there were."""
    loop = asyncio.get_running_loop()
    until, done = loop.time() + least_s, 0
    while not done or loop.time() < until:
        await share(connections, _sessions(f"warm-{done}", runs), _converse)
        done += runs
    return done


def _sessions(name: str, runs: int) -> list[str]:
    return [f"{name}-{number}" for number in range(runs // _RUNS_A_SESSION)]


async def _converse(client: Client, session_id: str) -> None:
    await client.post("/v1/sessions", {"session_id": session_id})
    for _ in range(_RUNS_A_SESSION):
        await client.post(f"/v1/sessions/{session_id}/input", {"content": NO_TOOL.content})
