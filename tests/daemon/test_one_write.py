"""Answers on the wire: in one piece where a body follows, at once where none does."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn

from kheish.daemon.one_write import OneWrite, OneWriteProtocol

pytestmark = pytest.mark.anyio

DEADLINE_S = 10.0
START = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]}


class Wire(asyncio.Transport):
    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def close(self) -> None:
        self.closed = True


async def whole(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send(START)
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else b"hello"})


async def broken(scope: Any, receive: Any, send: Any) -> None:
    await send(START)
    raise RuntimeError


@asynccontextmanager
async def served(app: Callable[..., Any]) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to ``app``."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, http=OneWriteProtocol, ws="none", lifespan="off", log_config=None)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        async with asyncio.timeout(DEADLINE_S):
            yield reader, writer
        writer.close()
        server.should_exit = True
        await serving


def test_the_head_waits_for_the_first_of_the_body() -> None:
    wire = Wire()
    answer = OneWrite(wire)
    for data in (b"head ", b"one", b"two"):
        answer.write(data)

    assert wire.written == [b"head one", b"two"]


def test_a_head_without_a_body_leaves_when_the_answer_breaks_off() -> None:
    wire = Wire()
    answer = OneWrite(wire)
    answer.write(b"head")
    answer.close()

    assert (wire.written, wire.closed) == ([b"head"], True)


async def test_a_connection_carries_several_answers_also_to_head() -> None:
    async with served(whole) as (reader, writer):
        writer.write(b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * 2)
        bodies = [(await reader.readuntil(b"\r\n\r\n"), await reader.readexactly(5))[1] for _ in range(2)]

    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert bodies == [b"hello", b"hello"]


async def test_a_client_that_asks_before_it_sends_is_told_to_go_on() -> None:
    async with served(whole) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n")
        told = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"{}")
        answer = await reader.readuntil(b"hello")

    assert told == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


async def test_an_answer_that_breaks_off_shows_as_cut_short() -> None:
    async with served(broken) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        answer = await reader.read()

    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\n")
