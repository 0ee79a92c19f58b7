"""One run at 50 tokens a second, watched by many: what each further watcher costs."""

from __future__ import annotations

from bench.held import MESSAGE, NAP_S, Loop, Step
from bench.load import Client
from bench.processes import Child
from bench.watched import Name, Place, all_begun, no_garbage_pauses, side
from bench.watchers import Arrivals, Watchers

WATCHERS = 500


async def fan_out(name: Name, where: Place, process: Child, *, hold_s: float) -> Step:
    """All watch the same run. Their streams stand before it begins."""
    arrivals = Arrivals()
    with no_garbage_pauses(), Watchers(nap_s=NAP_S) as watchers:
        async with side(name, process, watchers) as server, Client(where.model.url) as control:
            watching = await server.start_shared(MESSAGE, arrivals, WATCHERS)
            await all_begun(watching)
            loop = Loop(server=process, model=where.model, control=control, arrivals=arrivals)
            step = await loop.hold(streams=1, hold_s=hold_s, watchers_each=WATCHERS)
            await control.post("/end", {})
    return step
