"""HTTP/1.1 for model calls.

The HTTP library and its engine cost several times what a call or a token may cost a daemon with hundreds of live
streams. This writes the head of a request once, hands on at once whatever has arrived, and does nothing else per token.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from urllib.parse import quote, urlsplit

from kheish.providers.dialling import dial
from kheish.providers.exchanges import Exchange, ExchangeFailed
from kheish.providers.http1 import Connection, Origin

_MAX_IDLE = 64
"""Connections that are kept for a next call."""
_PORTS = {"http": 80, "https": 443}
_IN_PATHS = "!$%&'()*+,/:;=@[\\]^|~"
"""What a path may hold as it is, beside letters and digits."""
_IN_QUERIES = _IN_PATHS + "?`{}"


class Http1Client:
    """Sends requests whose body is known, each once, and streams the answers. Time limits are the caller's.

    No HEAD, CONNECT or upgrade.
    """

    def __init__(self) -> None:
        self._open: set[Connection] = set()
        self._idle: dict[Origin, list[Connection]] = {}
        self._tls: ssl.SSLContext | None = None

    def target(self, url: str, headers: Mapping[str, str]) -> Http1Target:
        """Prepare calls; see `ModelClient`."""
        origin, named, path = _address(url)
        fields = {"Host": named, "Connection": "keep-alive", **headers}
        lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
        return Http1Target(self, origin, written([line.encode("ascii") for line in lines]))

    async def send(self, origin: Origin, message: bytes) -> Connection:
        """Send a request and return its exchange as soon as the head of the answer is here.

        Raises:
            ExchangeFailed: cannot connect, lost, or not HTTP.
        """
        connection = self._taken_up(origin) or await self._connected(origin)
        try:
            await connection.exchange(message)
        except BaseException:
            connection.let_go()
            raise
        return connection

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
        tls, name = (await self._tls_context(), host) if scheme == "https" else (None, None)
        try:
            reached = await dial(host, port)
            loop = asyncio.get_running_loop()
            await loop.create_connection(lambda: made, sock=reached, ssl=tls, server_hostname=name)
        except OSError as error:
            raise ExchangeFailed("ConnectError", str(error)) from error
        return made

    async def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            # Off the event loop: it takes a while, once, and streams go on meanwhile.
            self._tls = await asyncio.to_thread(_new_tls_context)
        return self._tls

    def opened(self, connection: Connection) -> None:
        self._open.add(connection)

    def kept(self, connection: Connection) -> bool:
        if sum(map(len, self._idle.values())) >= _MAX_IDLE:
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


def _new_tls_context() -> ssl.SSLContext:
    import httpx2  # late: a daemon whose models are near needs nothing of it

    context = httpx2.create_ssl_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


class Http1Target:
    """One address; only the length and the content of a request are written for each call."""

    def __init__(self, client: Http1Client, origin: Origin, head: bytes) -> None:
        self._client = client
        self._origin = origin
        self._head = head

    async def send(self, content: bytes) -> Exchange:
        """Post the content; see `Target`."""
        message = b"%bContent-Length: %d\r\n\r\n%b" % (self._head, len(content), content)
        connection = await self._client.send(self._origin, message)
        if connection.header("content-encoding") is None:
            return connection
        from kheish.providers.http_library import Unpacked  # late: nobody asked for an encoding

        return Unpacked(connection, connection.answer.headers)


def written(lines: Sequence[bytes]) -> bytes:
    """Lines of a head as they are sent.

    Raises:
        ValueError: one would be two.
    """
    head = b"\r\n".join((*lines, b""))
    if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines) or b"\0" in head:
        raise ValueError("a header cannot be sent")
    return head


def _in_ascii(host: str) -> str:
    if host.isascii():
        return host
    import httpx2  # late: it knows how such names are written, which the standard library's codec does no longer

    try:
        return httpx2.URL(f"https://{host}").raw_host.decode()
    except httpx2.InvalidURL as error:
        raise ValueError(str(error)) from None


def _address(url: str) -> tuple[Origin, str, str]:
    """Where to connect, the host's name in the request, and the path with its query."""
    parts = urlsplit(url)
    host, usual = _in_ascii(parts.hostname or ""), _PORTS.get(parts.scheme)
    if not host or usual is None:
        raise ValueError("only http and https are spoken here, with a host")
    port = parts.port or usual
    named = f"[{host}]" if ":" in host else host
    path = quote(parts.path, safe=_IN_PATHS) or "/"
    query = f"?{quote(parts.query, safe=_IN_QUERIES)}" if parts.query else ""
    return (parts.scheme, host, port), named if port == usual else f"{named}:{port}", path + query
