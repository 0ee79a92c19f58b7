"""The engine of model calls under a client of the HTTP library, so that tests speak plain HTTP through it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2

from kheish.providers.exchanges import ExchangeFailed
from kheish.providers.http1 import Connection, Origin
from kheish.providers.http1_pool import Http1Client, written


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
            connection = await self.engine.send(origin, message)
        except ExchangeFailed as failure:
            raise _error(failure) from failure
        return httpx2.Response(connection.status, headers=connection.answer.headers, stream=_Body(connection))

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


class _Body(httpx2.AsyncByteStream):
    """The body of one response: each piece is all that had arrived."""

    def __init__(self, connection: Connection) -> None:
        self._connection: Connection | None = connection

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            while self._connection is not None and (data := await self._connection.read()):
                yield data
        except ExchangeFailed as failure:
            raise _error(failure) from failure

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.let_go()
