"""The HTTP library: for calls behind a proxy, and for answers in an encoding nobody asked for.

Calls use its connection pool without its client, which looks for cookies, redirects and credentials at every call, and
writes each request and answer in objects of its own.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from urllib.request import getproxies, proxy_bypass

import httpcore2
import httpx2

from kheish.providers.exchanges import Exchange, ExchangeFailed, Target
from kheish.providers.http1_pool import written

_MAX_IDLE = 20
"""The library goes through all its connections at every call: with 64 of them, calls took twice as long."""
_IDLE_S = 5.0
_FAILURES = (
    httpcore2.TimeoutException,
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.ProxyError,
    httpcore2.UnsupportedProtocol,
    ssl.SSLError,
)


class LibraryClient:
    """Makes model calls through the library, behind the proxies of the environment: no ceiling and no time limits."""

    def __init__(self) -> None:
        self._tls = httpx2.create_ssl_context()  # now: it takes a while, which a call has no time for
        self._by_proxy: dict[str | None, httpcore2.AsyncConnectionPool] = {}

    def target(self, url: str, headers: Mapping[str, str]) -> Target:
        """Prepare calls; see `ModelClient`."""
        written([f"{name}: {value}".encode() for name, value in headers.items()])
        try:
            address = httpx2.URL(url)
            connections = self._connections(_proxy_for(address))
        except (TypeError, ImportError, httpx2.InvalidURL) as error:
            raise ValueError(str(error)) from None
        fixed = httpx2.Request("POST", address, headers={"Connection": "keep-alive", **headers}).headers
        del fixed["content-length"]  # of no content
        return _LibraryTarget(connections, _as_the_pool_has_it(address), fixed.raw)

    async def aclose(self) -> None:
        for connections in self._by_proxy.values():
            await connections.aclose()

    def _connections(self, proxy: str | None) -> httpcore2.AsyncConnectionPool:
        known = self._by_proxy.get(proxy)
        if known is None:
            known = self._by_proxy[proxy] = httpcore2.AsyncConnectionPool(
                ssl_context=self._tls,
                proxy=None if proxy is None else _proxy(proxy),
                max_connections=None,
                max_keepalive_connections=_MAX_IDLE,
                keepalive_expiry=_IDLE_S,
                network_backend=_Network(),
            )
        return known


def _proxy(address: str) -> httpcore2.Proxy:
    given = httpx2.Proxy(address)
    if given.url.scheme.startswith("socks") and find_spec("socksio") is None:
        raise ImportError("a SOCKS proxy needs the package 'socksio', which is not installed")
    return httpcore2.Proxy(_as_the_pool_has_it(given.url), auth=given.raw_auth)


def _proxy_for(address: httpx2.URL) -> str | None:
    """The proxy the environment names for an address, unless it excepts its host."""
    proxies = getproxies()
    proxy = proxies.get(address.scheme) or proxies.get("all")
    # With its port, for an exception may name one.
    if not proxy or proxy_bypass(address.host if address.port is None else f"{address.host}:{address.port}"):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _as_the_pool_has_it(url: httpx2.URL) -> httpcore2.URL:
    return httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)


class _Network(httpcore2.AsyncNetworkBackend):
    """The library's connections, but that the head and the content of a request leave together."""

    def __init__(self) -> None:
        self._network = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        return _Stream(await self._network.connect_tcp(host, port, timeout, local_address, socket_options))

    async def sleep(self, seconds: float) -> None:
        await self._network.sleep(seconds)


class _Stream(httpcore2.AsyncNetworkStream):
    """What is written waits until an answer is read: each write is a system call that wakes the server."""

    def __init__(self, stream: httpcore2.AsyncNetworkStream) -> None:
        self._stream = stream
        self._waiting: list[bytes] = []

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._waiting.append(buffer)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._waiting:
            message = b"".join(self._waiting)
            self._waiting.clear()
            # A server that takes no more of a request may have said why.
            with suppress(httpcore2.WriteError):
                await self._stream.write(message, timeout)
        return await self._stream.read(max_bytes, timeout)

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.AsyncNetworkStream:
        try:
            return _Stream(await self._stream.start_tls(ssl_context, server_hostname, timeout))
        except asyncio.CancelledError:
            await self.aclose()  # the library closes after failures only
            raise

    def get_extra_info(self, info: str) -> object:
        # What was answered without being read for came behind another answer: the pool drops such a connection.
        if info == "is_readable" and self._waiting:
            return True
        return self._stream.get_extra_info(info)

    async def aclose(self) -> None:
        await self._stream.aclose()


class _LibraryTarget:
    def __init__(
        self, connections: httpcore2.AsyncConnectionPool, address: httpcore2.URL, fixed: list[tuple[bytes, bytes]]
    ) -> None:
        self._connections = connections
        self._address = address
        self._fixed = fixed

    async def send(self, content: bytes) -> Exchange:
        headers = [*self._fixed, (b"Content-Length", b"%d" % len(content))]
        request = httpcore2.Request(b"POST", self._address, headers=headers, content=content)
        try:
            answer = await self._connections.handle_async_request(request)
        except _FAILURES as error:
            raise ExchangeFailed(type(error).__name__) from None
        exchange = _LibraryExchange(answer)
        return exchange if exchange.header("content-encoding") is None else Unpacked(exchange, answer.headers)


class _LibraryExchange:
    ended = False  # the library does not say

    def __init__(self, answer: httpcore2.Response) -> None:
        self._answer = answer
        assert isinstance(answer.stream, AsyncIterable)
        self._chunks = aiter(answer.stream)

    @property
    def status(self) -> int:
        return self._answer.status

    def header(self, name: str) -> str | None:
        wanted = name.encode()
        found = (value for key, value in self._answer.headers if key.lower() == wanted)
        return next((value.decode("latin-1") for value in found), None)

    async def read(self) -> bytes:
        try:
            return await _next_of(self._chunks)
        except _FAILURES as error:
            raise ExchangeFailed(type(error).__name__) from None

    async def aclose(self) -> None:
        await self._answer.aclose()


class Unpacked:
    """An exchange with the encoding of its content, which ``headers`` tell, taken off."""

    ended = False  # what was taken off may hold something back

    def __init__(self, exchange: Exchange, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self._exchange = exchange
        decoding = httpx2.Response(exchange.status, headers=[*headers], stream=_Body(exchange))
        self._chunks = aiter(decoding.aiter_bytes())

    @property
    def status(self) -> int:
        return self._exchange.status

    def header(self, name: str) -> str | None:
        return self._exchange.header(name)

    async def read(self) -> bytes:
        try:
            return await _next_of(self._chunks)
        except httpx2.DecodingError as error:
            raise ExchangeFailed(type(error).__name__) from None

    async def aclose(self) -> None:
        await self._exchange.aclose()


async def _next_of(chunks: AsyncIterator[bytes]) -> bytes:
    """The next bytes there are; b"" at the end."""
    async for chunk in chunks:
        if chunk:
            return chunk
    return b""


class _Body(httpx2.AsyncByteStream):
    """What has arrived, as it came."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self._exchange.read():
            yield data
