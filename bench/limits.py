"""What this machine gives anybody: bare web requests, durable rows and streamed events. No daemon is involved."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import uvloop

from bench.figures import Figure, Scale, figure
from bench.load import Client
from bench.processes import child
from kheish.store.database import SqliteDatabase, Transaction

HERE = Path(__file__).parent
CONNECTIONS = 16
WRITERS = 64
_STREAMS = 4
_TABLE = "CREATE TABLE rows (id INTEGER PRIMARY KEY, session_id TEXT NOT NULL, body TEXT NOT NULL)"
_INSERT = "INSERT INTO rows (session_id, body) VALUES (?, ?)"
_BODY = '{"accepted":"hi"}'
_DEADLINE_S = 120.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """What asking a server as often as possible found."""

    per_s: float
    client_cpu_s: float
    """Of this process, for each request."""


async def ask(url: str, path: str, content: object, *, times: int, connections: int = CONNECTIONS) -> Answered:
    """Send the same request ``times`` times over all connections."""
    each = max(1, times // connections)
    async with AsyncExitStack() as stack, asyncio.timeout(_DEADLINE_S):
        clients = [await stack.enter_async_context(Client(url)) for _ in range(connections)]

        async def one(client: Client) -> None:
            for _ in range(each):
                await client.post(path, content)

        began, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(one(client) for client in clients))
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    return Answered(per_s=each * connections / seconds, client_cpu_s=cpu / (each * connections))


def measure(scale: Scale) -> list[Figure]:
    """Each limit, in turn, for all rounds."""
    with tempfile.TemporaryDirectory(prefix="kheish-bench-") as folder:
        root = Path(folder)
        with child([sys.executable, str(HERE / "bare_asgi.py")], root / "asgi.log", token=None) as server:
            return uvloop.run(_measure(scale, server.url, root))


async def _measure(scale: Scale, url: str, root: Path) -> list[Figure]:
    requests, rows, events = [], [], []
    together = 0.0
    await ask(url, "/", {"content": "hi"}, times=200)
    for number in range(scale.rounds):
        requests.append((await ask(url, "/", {"content": "hi"}, times=scale.times(12_000, 3_000))).per_s)
        rate, together = await _commit(root / f"rows-{number}.db", scale.times(12_000, 4_000))
        rows.append(rate)
        events.append(await _stream(url, scale.times(20_000, 5_000)))
    return [
        figure(
            "limit.asgi_requests",
            "bare ASGI requests",
            "requests/s",
            requests,
            better="higher",
            note=f"an ASGI app without a framework under the daemon's web server, {CONNECTIONS} connections",
        ),
        figure(
            "limit.rows",
            "rows committed in groups",
            "rows/s",
            rows,
            better="higher",
            note=f"the daemon's store, one row a write, {WRITERS} writers; {together:.0f} rows shared a commit",
        ),
        figure(
            "limit.stream_events",
            "bare streamed events",
            "events/s",
            events,
            better="higher",
            note=f"sent one by one by an ASGI app to {_STREAMS} readers, all readers together",
        ),
    ]


async def _commit(path: Path, count: int) -> tuple[float, float]:
    """Rows per second, and how many shared a commit."""
    database = SqliteDatabase(path)
    try:
        database.run_offline(lambda connection: connection.execute(_TABLE))

        def unit(transaction: Transaction) -> None:
            transaction.connection.execute(_INSERT, ("session", _BODY))

        async def writer() -> None:
            for _ in range(count // WRITERS):
                await database.write(unit)

        began = time.perf_counter()
        await asyncio.gather(*(writer() for _ in range(WRITERS)))
        seconds = time.perf_counter() - began
        done = database.statistics
        return done.units / seconds, done.units / max(1, done.commits)
    finally:
        database.close()


async def _stream(url: str, count: int) -> float:
    each = count // _STREAMS

    async def read(client: Client) -> None:
        got = 0
        async for _, chunk in await client.stream(f"/events/{each}"):
            got += chunk.count(b"\n\n")
        if got != each:
            raise RuntimeError(f"{got} of {each} events arrived")

    async with AsyncExitStack() as stack, asyncio.timeout(_DEADLINE_S):
        clients = [await stack.enter_async_context(Client(url)) for _ in range(_STREAMS)]
        began = time.perf_counter()
        await asyncio.gather(*(read(client) for client in clients))
        return each * _STREAMS / (time.perf_counter() - began)
