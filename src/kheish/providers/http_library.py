"""The HTTP library: for calls behind a proxy, and for answers in an encoding nobody asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import httpx2

from kheish.providers.exchanges import Exchange, ExchangeFailed, Target
from kheish.providers.http1 import Connection
from kheish.providers.http1_pool import written

_MAX_IDLE = 20
"""The library goes through all its connections at every call: with 64 of them, calls took twice as long."""


def proxied_client() -> httpx2.AsyncClient:
    """Make a client on the library's own engine, which knows proxies: no ceiling, no time limits, no redirects."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=_MAX_IDLE)
    return httpx2.AsyncClient(timeout=None, limits=limits, follow_redirects=False)


class LibraryClient:
    """Makes model calls through a client of the library."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client

    def target(self, url: str, headers: Mapping[str, str]) -> Target:
        """Prepare calls; see `ModelClient`."""
        written([f"{name}: {value}".encode() for name, value in headers.items()])
        try:
            fixed = self._client.build_request("POST", url, headers=dict(headers))
        except (TypeError, httpx2.InvalidURL) as error:
            raise ValueError(str(error)) from None
        del fixed.headers["content-length"]  # of no body
        fixed.headers.pop("cookie", None)  # a model call has none, and one that was set later would not be in it
        return _LibraryTarget(self._client, fixed)

    async def aclose(self) -> None:
        await self._client.aclose()


class _LibraryTarget:
    def __init__(self, client: httpx2.AsyncClient, fixed: httpx2.Request) -> None:
        self._client = client
        self._fixed = fixed

    async def send(self, content: bytes) -> Exchange:
        request = httpx2.Request("POST", self._fixed.url, headers=self._fixed.headers, content=content)
        try:
            return _LibraryExchange(await self._client.send(request, stream=True))
        except httpx2.RequestError as error:
            raise ExchangeFailed(type(error).__name__) from None


class _LibraryExchange:
    ended = False  # the library does not say

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response
        self._chunks = response.aiter_bytes()

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
