"""Watchers of the bench count every token once, and none that did not stream."""

from __future__ import annotations

import asyncio
import itertools
import socket
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.held import Loop
from bench.load import Client
from bench.watched import Name, all_begun, place, side, start_many
from bench.watchers import Arrivals, Lateness, Watcher, Watchers
from tests.http.house import DEADLINE_S

STREAM = (
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n8\r\n: open\n\n\r\n"
    b'3b\r\nevent: output_delta\ndata: {"text":"some@00000000000011 "}\n\n\r\n'
    b'4e\r\nevent: output_delta\ndata: {"text":"words@00000000000012 the@00000000000013 "}\n\n\r\n'
    b'51\r\nid: 7\nevent: output\ndata: {"text":"some@00000000000011 words@00000000000012 "}\n\n\r\n'
    b'2a\r\ndata: {"choices":[{"index":0,"delta":{"content":"end@00000000000014 "}}]}\n\n\r\n'
)


@settings(max_examples=50, deadline=None)
@given(cuts=st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_any_split_of_a_stream_gives_each_streamed_token_once(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[start:end] for start, end in itertools.pairwise(edges) if start < end]

    async def watched() -> tuple[list[int], int]:
        arrivals = Arrivals()
        arrivals.expect(11, 14)
        with socket.socket() as unused:
            watcher = Watcher(unused, arrivals)
            for number, piece in enumerate(pieces):
                watcher.take(piece, 100 + number)
            return list(arrivals.read()), await watcher.first

    late, first = asyncio.run(watched())

    assert len(late) == 3
    assert first <= late[0]


def test_tokens_that_never_came_are_late_for_ever() -> None:
    assert Lateness.of(array("L", [3000, 1000, 2000])) == Lateness(p50=2.0, p95=3.0, count=3)
    assert Lateness.of(array("L", [1000]), missing=1) == Lateness(p50=float("inf"), p95=float("inf"), count=1)


@pytest.mark.anyio
async def test_a_stream_that_is_refused_is_an_error_for_who_waits_for_it() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server, asyncio.timeout(DEADLINE_S):
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with Watchers() as watchers, pytest.raises(ConnectionError, match="401"):
            await watchers.watch(url, "/", None, Arrivals())


@pytest.mark.e2e
@pytest.mark.anyio
async def test_no_token_of_a_daemon_or_a_relay_is_lost_alone_or_shared() -> None:
    arrivals = Arrivals()
    names: tuple[Name, ...] = ("daemon", "relay")
    with place() as where, Watchers() as watchers:
        for name in names:
            with where.server(name) as process:
                async with side(name, process, watchers) as server, Client(where.model.url) as control:
                    loop = Loop(server=process, model=where.model, control=control, arrivals=arrivals)
                    await all_begun(await start_many(server, 2, "stream 1000 tokens at 100 per second", arrivals))
                    alone = await loop.hold(streams=2, hold_s=0.1)
                    await control.post("/end", {})
                    shared_arrivals = Arrivals()
                    watching = await server.start_shared(
                        "stream 1000 tokens at 100 per second", shared_arrivals, watchers=3
                    )
                    await all_begun(watching)
                    loop = Loop(server=process, model=where.model, control=control, arrivals=shared_arrivals)
                    shared = await loop.hold(streams=1, hold_s=0.1, watchers_each=3)
                    await control.post("/end", {})

            assert (alone.lost, shared.lost) == (0, 0)
            assert alone.lateness.count > 0 < shared.lateness.count
