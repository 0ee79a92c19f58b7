"""The HTTP library: for calls behind a proxy, and for answers in an encoding nobody asked for.

Its connections are used without its client, which looks for cookies, redirects and credentials at every call.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from urllib.request import getproxies, proxy_bypass

import httpx2

from kheish.providers.exchanges import Exchange, ExchangeFailed, Target
from kheish.providers.http1 import Connection
from kheish.providers.http1_pool import written

_MAX_IDLE = 20
"""The library goes through all its connections at every call: with 64 of them, calls took twice as long."""


class LibraryClient:
    """Makes model calls through the library, behind the proxies of the environment: no ceiling and no time limits."""

    def __init__(self, straight: httpx2.AsyncBaseTransport | None = None) -> None:
        """``straight`` makes the calls that no proxy is for."""
        self._tls = httpx2.create_ssl_context()  # now: it takes a while, which a call has no time for
        self._by_proxy: dict[str | None, httpx2.AsyncBaseTransport] = {} if straight is None else {None: straight}

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
        return _LibraryTarget(connections, address, fixed.raw)

    async def aclose(self) -> None:
        for connections in self._by_proxy.values():
            await connections.aclose()

    def _connections(self, proxy: str | None) -> httpx2.AsyncBaseTransport:
        known = self._by_proxy.get(proxy)
        if known is None:
            limits = httpx2.Limits(max_connections=None, max_keepalive_connections=_MAX_IDLE)
            known = self._by_proxy[proxy] = httpx2.AsyncHTTPTransport(verify=self._tls, limits=limits, proxy=proxy)
        return known


def _proxy_for(address: httpx2.URL) -> str | None:
    """The proxy the environment names for an address, unless it excepts its host."""
    proxies = getproxies()
    proxy = proxies.get(address.scheme) or proxies.get("all")
    # With its port, for an exception may name one.
    if not proxy or proxy_bypass(address.host if address.port is None else f"{address.host}:{address.port}"):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


class _LibraryTarget:
    def __init__(
        self, connections: httpx2.AsyncBaseTransport, address: httpx2.URL, fixed: list[tuple[bytes, bytes]]
    ) -> None:
        self._connections = connections
        self._address = address
        self._fixed = fixed

    async def send(self, content: bytes) -> Exchange:
        headers = [*self._fixed, (b"Content-Length", b"%d" % len(content))]
        request = httpx2.Request("POST", self._address, headers=headers, stream=httpx2.ByteStream(content))
        try:
            return _LibraryExchange(await self._connections.handle_async_request(request))
        except httpx2.TransportError as error:
            raise ExchangeFailed(type(error).__name__) from None


class _LibraryExchange:
    ended = False  # the library does not say

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response
        arriving = response.stream
        assert isinstance(arriving, httpx2.AsyncByteStream)
        self._chunks = aiter(response.aiter_bytes() if "content-encoding" in response.headers else arriving)

    @property
    def status(self) -> int:
        return self._response.status_code

    def header(self, name: str) -> str | None:
        found: str | None = self._response.headers.get(name)
        return found

    async def read(self) -> bytes:
        try:
            async for chunk in self._chunks:
                if chunk:
                    return chunk
        except httpx2.RequestError as error:
            raise ExchangeFailed(type(error).__name__) from None
        return b""

    async def aclose(self) -> None:
        await self._response.aclose()


def unpacked(connection: Connection) -> Exchange:
    """The exchange with the encoding of its content taken off."""
    headers = connection.answer.headers
    return _LibraryExchange(httpx2.Response(connection.status, headers=headers, stream=_Body(connection)))


class _Body(httpx2.AsyncByteStream):
    """What has arrived of an answer of our own engine."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self._connection.read():
            yield data

    async def aclose(self) -> None:
        await self._connection.aclose()
