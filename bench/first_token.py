"""From the moment the model server wrote a reply's first token to its arrival at a watcher, among other live runs."""

from __future__ import annotations

import asyncio
from array import array

from bench.held import MESSAGE
from bench.load import Client
from bench.processes import Child
from bench.watched import Name, Place, all_begun, no_garbage_pauses, side, start_many
from bench.watchers import DEADLINE_S, Arrivals, Lateness, Watchers

LIVE = 16
"""Runs at once, the measured one included."""
_SHORT = "stream 3 tokens at 50 per second"
_PAUSE_S = 0.1
"""Longer than a short run takes: one at a time comes on top of the others."""


async def first_tokens(name: Name, where: Place, process: Child, *, samples: int) -> Lateness:
    """So many short runs, one after the other, each in a session of its own."""
    late_us = array("L")
    with no_garbage_pauses(), Watchers() as watchers:
        async with side(name, process, watchers) as server, Client(where.model.url) as control:
            await all_begun(await start_many(server, LIVE - 1, MESSAGE, Arrivals()))
            for _ in range(samples):
                watcher = await server.start(_SHORT, Arrivals())
                async with asyncio.timeout(DEADLINE_S):
                    late_us.append(await watcher.first)
                await asyncio.sleep(_PAUSE_S)
                watchers.leave(watcher)
            await control.post("/end", {})
    return Lateness.of(late_us)
