"""A light HTTP client for the bench: one connection a client, so that the load is never the slow part."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Protocol, cast
from urllib.parse import urlsplit

import httptools
import orjson


class Refused(Exception):
    """An answer that is no success."""


class _Exchange(asyncio.Protocol):
    """One keep-alive connection; responses in the order of their requests."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._waiting: deque[asyncio.Future[bytes]] = deque()
        self._body: list[bytes] = []
        self.transport: asyncio.Transport | None = None
        self.chunks: asyncio.Queue[tuple[float, bytes] | None] | None = None
        """Where the bytes of a stream go, with the time of their arrival; None: responses are collected whole."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, error: Exception | None) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_exception(error or ConnectionError("the server closed the connection"))
        if self.chunks is not None:
            self.chunks.put_nowait(None)

    def on_headers_complete(self) -> None:
        if self.chunks is not None and self._parser.get_status_code() < 300:
            self._waiting.popleft().set_result(b"")

    def on_body(self, body: bytes) -> None:
        if self.chunks is None:
            self._body.append(body)
        else:
            self.chunks.put_nowait((time.perf_counter(), body))

    def on_message_complete(self) -> None:
        if self.chunks is not None:
            self.chunks.put_nowait(None)
            if not self._waiting:
                return
        body, self._body = b"".join(self._body), []
        future, status = self._waiting.popleft(), self._parser.get_status_code()
        if future.done():
            return
        if status < 300:
            future.set_result(body)
        else:
            future.set_exception(Refused(f"{status}: {body[:500]!r}"))

    async def send(self, head: bytes, body: bytes) -> bytes:
        assert self.transport is not None
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self.transport.write(head + body)
        return await future


class Client:
    """Requests over one connection of its own. Use as an async context manager."""

    def __init__(self, url: str, token: str | None = None) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._fields = f"host: {self._host}:{self._port}\r\ncontent-type: application/json\r\n" + (
            f"authorization: Bearer {token}\r\n" if token is not None else ""
        )
        self._exchange: _Exchange | None = None

    async def __aenter__(self) -> Client:
        loop = asyncio.get_running_loop()
        _, self._exchange = await loop.create_connection(_Exchange, self._host, self._port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._exchange is not None
        assert self._exchange.transport is not None
        self._exchange.transport.close()

    async def get(self, path: str) -> bytes:
        """The body of a success.

        Raises:
            Refused: the answer was none.
        """
        return await self._request("GET", path, b"")

    async def post(self, path: str, content: object) -> bytes:
        """Send JSON; the body of a success.

        Raises:
            Refused: the answer was none.
        """
        return await self._request("POST", path, orjson.dumps(content))

    async def stream(self, path: str) -> AsyncIterator[tuple[float, bytes]]:
        """Bytes of a streamed body as they arrive, with the time of it. The connection serves nothing else after it."""
        assert self._exchange is not None
        chunks: asyncio.Queue[tuple[float, bytes] | None] = asyncio.Queue()
        self._exchange.chunks = chunks
        await self._request("GET", path, b"")
        return _drained(chunks)

    async def _request(self, method: str, path: str, body: bytes) -> bytes:
        assert self._exchange is not None
        head = f"{method} {path} HTTP/1.1\r\n{self._fields}content-length: {len(body)}\r\n\r\n"
        return await self._exchange.send(head.encode(), body)


@asynccontextmanager
async def clients(url: str, token: str | None, count: int) -> AsyncIterator[list[Client]]:
    """Some connections to one server."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Client(url, token)) for _ in range(count)]


class Work(Protocol):
    """Something to do for a session."""

    async def __call__(self, client: Client, session_id: str) -> None: ...


async def share(among: Sequence[Client], session_ids: Iterable[str], work: Work) -> None:
    """Do ``work`` for each session; every connection takes the next one when it is done with its last."""
    waiting = iter(session_ids)

    async def serve(client: Client) -> None:
        for session_id in waiting:
            await work(client, session_id)

    await asyncio.gather(*(serve(client) for client in among))


async def _drained(chunks: asyncio.Queue[tuple[float, bytes] | None]) -> AsyncIterator[tuple[float, bytes]]:
    while (chunk := await chunks.get()) is not None:
        yield chunk
