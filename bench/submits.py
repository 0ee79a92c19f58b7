"""How long it takes until a submitted run is accepted and durable, while other sessions keep the server busy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from statistics import quantiles

from bench.figures import Figure, figure
from bench.load import Client, share
from bench.sides import NO_TOOL, Side, Sides

BUSY_SESSIONS = 16
Submits = dict[str, list[float]]
"""Milliseconds of each submit, by side."""
_CONTENT = {"content": NO_TOOL.content}
_DEADLINE_S = 120.0


async def submits(both: Sides, number: int, count: int) -> Submits:
    """Submit ``count`` runs one after the other, each into a session of its own, on both sides in turn."""
    return {side.name: await _submit(side, f"submit-{number}", count) for side in both.in_turn(number, pairs=1)}


def submit_figures(rounds: Sequence[Submits]) -> list[Figure]:
    found = []
    for percentile in (50, 95):
        times = {
            side: [quantiles(each[side], n=100)[percentile - 1] for each in rounds] for side in ("daemon", "floor")
        }
        found.append(
            figure(
                f"submit.p{percentile}",
                f"submit while {BUSY_SESSIONS} sessions run, p{percentile}",
                "ms",
                times["daemon"],
                times["floor"],
                note="POST /v1/sessions/{id}/runs, answered once the input is durable",
            )
        )
    return found


async def _submit(side: Side, tag: str, count: int) -> list[float]:
    over = asyncio.Event()
    async with AsyncExitStack() as stack, asyncio.timeout(_DEADLINE_S):
        clients = [await stack.enter_async_context(side.client()) for _ in range(BUSY_SESSIONS + 1)]
        submitter, busy = clients[0], clients[1:]
        names = [f"{tag}-{index}" for index in range(count)]
        opened = [*names, *(f"{tag}-busy-{index}" for index in range(BUSY_SESSIONS))]
        await share(clients, opened, side.create)
        async with asyncio.TaskGroup() as group:
            for index, client in enumerate(busy):
                group.create_task(_keep_busy(client, f"{tag}-busy-{index}", over))
            found = [await _timed(submitter, name) for name in names]
            over.set()
        # Behind the last submitted run: what was submitted is over before something else is measured.
        await submitter.post(f"/v1/sessions/{names[-1]}/input", _CONTENT)
    return found


async def _keep_busy(client: Client, session_id: str, over: asyncio.Event) -> None:
    while not over.is_set():
        await client.post(f"/v1/sessions/{session_id}/input", _CONTENT)


async def _timed(client: Client, session_id: str) -> float:
    began = time.perf_counter()
    await client.post(f"/v1/sessions/{session_id}/runs", _CONTENT)
    return (time.perf_counter() - began) * 1000
