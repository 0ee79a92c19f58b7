"""The HTTP library: for calls behind a proxy, for answers in an encoding nobody asked for, and over our own engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import httpx2

from kheish.providers.exchanges import Exchange, ExchangeFailed, Target
from kheish.providers.http1 import Connection, Origin
from kheish.providers.http1_pool import MAX_IDLE, Http1Client, written


def proxied_client() -> httpx2.AsyncClient:
    """Make a client on the library's own engine, which knows proxies: no ceiling, no time limits, no redirects."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=MAX_IDLE)
    return httpx2.AsyncClient(timeout=None, limits=limits, follow_redirects=False)


class LibraryClient:
    """Makes model calls through a client of the library."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client

    def target(self, url: str, headers: Mapping[str, str]) -> Target:
        """Prepare calls; see `ModelClient`."""
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
    return _LibraryExchange(_response(connection))


class Http1Transport(httpx2.AsyncBaseTransport):
    """Our engine under a client of the library."""

    def __init__(self) -> None:
        self.engine = Http1Client()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Return the response as soon as its head is here.

        Raises:
            TransportError: cannot connect, cannot be sent, lost, or not HTTP.
        """
        origin, message = _origin(request.url), _head(request) + await request.aread()
        try:
            return _response(await self.engine.send(origin, message))
        except ExchangeFailed as failure:
            raise _error(failure) from failure

    async def aclose(self) -> None:
        await self.engine.aclose()


def _error(failure: ExchangeFailed) -> httpx2.TransportError:
    kinds = (httpx2.ConnectError, httpx2.ReadError, httpx2.RemoteProtocolError)
    return next(kind for kind in kinds if kind.__name__ == failure.kind)(str(failure))


def _origin(url: httpx2.URL) -> Origin:
    if url.scheme not in ("http", "https"):
        raise httpx2.UnsupportedProtocol(f"{url.scheme}:// is not spoken here")
    return url.scheme, url.raw_host.decode("ascii"), url.port or (443 if url.scheme == "https" else 80)


def _head(request: httpx2.Request) -> bytes:
    if "transfer-encoding" in request.headers:
        raise httpx2.LocalProtocolError("the length of the body is not known")
    fields = [b"%b: %b" % field for field in request.headers.raw]
    try:
        return written([b"%b %b HTTP/1.1" % (request.method.encode("ascii"), request.url.raw_path), *fields]) + b"\r\n"
    except ValueError as error:
        raise httpx2.LocalProtocolError(str(error)) from None


def _response(connection: Connection) -> httpx2.Response:
    return httpx2.Response(connection.status, headers=connection.answer.headers, stream=_Body(connection))


class _Body(httpx2.AsyncByteStream):
    """The body of one response: each piece is all that had arrived."""

    def __init__(self, connection: Connection) -> None:
        self._connection: Connection | None = connection

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            data = b"" if self._connection is None else await self._connection.read()
        except ExchangeFailed as failure:
            raise _error(failure) from failure
        if not data:
            raise StopAsyncIteration
        return data

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.let_go()
