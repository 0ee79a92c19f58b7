"""HTTP/1.1 for model calls, under httpx2.

The engine of httpx2 costs several times what a token may cost a daemon with hundreds of live streams. This one hands
on at once whatever has arrived, and does nothing else per token.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator

import httpx2

from kheish.providers.dialling import dial
from kheish.providers.http1 import Connection, Origin

MAX_IDLE = 64
"""Connections that are kept for a next call."""


class Http1Transport(httpx2.AsyncBaseTransport):
    """Sends requests whose body is known, each once, and streams the answers. Time limits are the caller's.

    No HEAD, CONNECT or upgrade.
    """

    def __init__(self) -> None:
        self._open: set[Connection] = set()
        self._idle: dict[Origin, list[Connection]] = {}
        self._tls: ssl.SSLContext | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Return the response as soon as its head is here.

        Raises:
            TransportError: cannot connect, cannot be sent, lost, or not HTTP.
        """
        origin, message = _origin(request.url), _head(request) + await request.aread()
        connection = self._taken_up(origin) or await self._connected(origin)
        try:
            answer = await connection.exchange(message)
        except BaseException:
            connection.let_go()
            raise
        return httpx2.Response(answer.status, headers=answer.headers, stream=_Body(connection))

    async def aclose(self) -> None:
        for connection in tuple(self._open):
            connection.network.abort()

    def _taken_up(self, origin: Origin) -> Connection | None:
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if connection.taken_up():
                return connection
            connection.network.abort()
        return None

    async def _connected(self, origin: Origin) -> Connection:
        scheme, host, port = origin
        made = Connection(self, origin)
        tls, name = (self._tls_context(), host) if scheme == "https" else (None, None)
        try:
            reached = await dial(host, port)
            loop = asyncio.get_running_loop()
            await loop.create_connection(lambda: made, sock=reached, ssl=tls, server_hostname=name)
        except OSError as error:
            raise httpx2.ConnectError(str(error)) from error
        return made

    def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = httpx2.create_ssl_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls

    def opened(self, connection: Connection) -> None:
        self._open.add(connection)

    def kept(self, connection: Connection) -> bool:
        if sum(map(len, self._idle.values())) >= MAX_IDLE:
            return False
        self._idle.setdefault(connection.origin, []).append(connection)
        return True

    def lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        idle = self._idle.get(connection.origin, [])
        if connection in idle:
            idle.remove(connection)
        if not idle:
            self._idle.pop(connection.origin, None)


def _origin(url: httpx2.URL) -> Origin:
    if url.scheme not in ("http", "https"):
        raise httpx2.UnsupportedProtocol(f"{url.scheme}:// is not spoken here")
    return url.scheme, url.raw_host.decode("ascii"), url.port or (443 if url.scheme == "https" else 80)


def _head(request: httpx2.Request) -> bytes:
    fields = request.headers.raw
    if any(name.lower() == b"transfer-encoding" for name, _ in fields):
        raise httpx2.LocalProtocolError("the length of the body is not known")
    lines = [b"%s %s HTTP/1.1" % (request.method.encode("ascii"), request.url.raw_path)]
    lines += [b"%s: %s" % field for field in fields]
    head = b"\r\n".join((*lines, b"", b""))
    breaks = len(lines) + 1
    if head.count(b"\n") != breaks or head.count(b"\r") != breaks or b"\0" in head:
        raise httpx2.LocalProtocolError("a header cannot be sent")
    return head


class _Body(httpx2.AsyncByteStream):
    """The body of one response: each piece is all that had arrived."""

    def __init__(self, connection: Connection) -> None:
        self._connection: Connection | None = connection

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        data = b"" if self._connection is None else await self._connection.read()
        if not data:
            raise StopAsyncIteration
        return data

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.let_go()
