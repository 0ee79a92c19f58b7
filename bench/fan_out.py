"""One run at 50 tokens a second, watched by many: what each further watcher costs."""

from __future__ import annotations

import asyncio

from bench.held import NAP_S, SETTLE_S, Loop, Step
from bench.live_streams import MESSAGE
from bench.load import Client
from bench.processes import TOKEN, Child
from bench.watched import DaemonSide, Name, Place, no_garbage_pauses, side
from bench.watchers import DEADLINE_S, Arrivals, Watchers

WATCHERS = 500
_AT_ONCE = 16


async def fan_out(name: Name, where: Place, process: Child, *, watchers: int, hold_s: float) -> Step:
    """All watch the same run, on the run's own stream."""
    arrivals = Arrivals()
    with no_garbage_pauses(), Watchers(nap_s=NAP_S) as readers:
        async with side(name, process, readers) as server, Client(where.model.url) as control:
            if isinstance(server, DaemonSide):
                _, run_id = await server.run(MESSAGE, Arrivals())
                path, token = f"/v1/runs/{run_id}/stream", TOKEN
            else:
                path, token = f"/shared/{MESSAGE.replace(' ', '-')}", None
            gate = asyncio.Semaphore(_AT_ONCE)

            async def one() -> None:
                async with gate:
                    watcher = await readers.watch(process.url, path, token, arrivals)
                async with asyncio.timeout(DEADLINE_S):
                    await watcher.first

            await asyncio.gather(*(one() for _ in range(watchers)))
            await asyncio.sleep(SETTLE_S)
            loop = Loop(server=process, model=where.model, control=control, arrivals=arrivals)
            step = await loop.hold(streams=1, hold_s=hold_s, watchers_each=watchers)
            await control.post("/end", {})
    return step
