"""One streaming POST to a model endpoint: time limits, refusals and broken connections as classified errors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from urllib.request import getproxies

import httpx2

from kheish.core.jsonvalue import JsonObject, JsonValue, encode
from kheish.providers.http1_pool import MAX_IDLE, Http1Transport
from kheish.providers.limits import Limits
from kheish.providers.protocol import ModelReply, ProviderError, TextDelta
from kheish.providers.reply_reader import ReplyReader, WireDecoder
from kheish.providers.upstream_errors import local_error, retry_after_ms, transport_error, upstream_error
from kheish.providers.wire import load

_MAX_ERROR_BYTES = 64 * 1024
_DRAIN_SECONDS = 0.05  # enough for the end of a chunked body that is already here; keeps the connection usable


def new_client() -> httpx2.AsyncClient:
    """Make a client fit for many long streams: no pool ceiling, no time limits of its own, no redirects."""
    if getproxies().keys() & {"http", "https", "all"}:  # proxies are the library's own engine's business
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=MAX_IDLE)
        return httpx2.AsyncClient(timeout=None, limits=limits, follow_redirects=False)
    return httpx2.AsyncClient(transport=Http1Transport(), timeout=None, follow_redirects=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelEndpoint:
    """Where a route's model calls go and how they are authorised."""

    provider: str
    url: str
    client: httpx2.AsyncClient = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    limits: Limits = field(default_factory=Limits)

    async def stream(
        self,
        body: JsonObject,
        decoder: WireDecoder,
        *,
        headers: Mapping[str, str] | None = None,
        before_send: Callable[[bytes], None] | None = None,
    ) -> AsyncGenerator[TextDelta | ModelReply, None]:
        """Send one request, once, and yield what arrives: deltas, then the reply.

        Raises:
            ProviderError: refused, broken, too slow, or cut short. Nothing is repeated here.
        """
        deadline = asyncio.get_running_loop().time() + self.limits.whole
        request = self._request(body, headers or {})
        if before_send is not None:
            before_send(request.content)
        response = await self._send(request, deadline)
        try:
            if not response.is_success:
                raise await self._refusal(response, deadline)
            reader = ReplyReader(decoder)
            chunks = response.aiter_bytes()
            while not reader.finished:
                chunk = await self._receive(chunks, reader, deadline)
                if chunk is None:
                    break
                for delta in reader.feed(chunk):
                    yield delta
            late, reply = reader.finish()
            await _drain(chunks)
            for delta in late:
                yield delta
            yield reply
        finally:
            await response.aclose()

    async def _send(self, request: httpx2.Request, deadline: float) -> httpx2.Response:
        try:
            async with asyncio.timeout_at(self._next_limit(deadline)):
                return await self.client.send(request, stream=True)
        except TimeoutError:
            raise self._too_slow("request", deadline) from None
        except httpx2.RequestError as error:
            # Only the class is named: the text of these errors can hold headers and addresses.
            raise transport_error(self.provider, "request", f"connection failed ({type(error).__name__})") from None

    def _request(self, body: JsonObject, headers: Mapping[str, str]) -> httpx2.Request:
        try:
            return self.client.build_request(
                "POST",
                self.url,
                content=encode(body),
                headers={
                    "Content-Type": "application/json",
                    "Accept": "text/event-stream, application/json",
                    "Accept-Encoding": "identity",  # compressed bytes would hide how much has arrived
                    **self.headers,
                    **headers,
                },
            )
        except (ValueError, TypeError, httpx2.InvalidURL):
            pass
        # Outside the handler: those errors quote the header they could not encode.
        raise local_error(self.provider, "its body, headers or address cannot be sent")

    async def _receive(self, chunks: AsyncIterator[bytes], reader: ReplyReader, deadline: float) -> bytes | None:
        """Return the next bytes, None at the end, or when the reply is complete and only its tail went missing."""
        try:
            async with asyncio.timeout_at(self._next_limit(deadline)):
                return await anext(chunks, None)
        except TimeoutError:
            failure = self._too_slow("stream", deadline)
        except httpx2.RequestError as error:
            failure = transport_error(self.provider, "stream", f"connection lost ({type(error).__name__})")
        if reader.complete:
            return None
        raise failure

    async def _refusal(self, response: httpx2.Response, deadline: float) -> ProviderError:
        body = bytearray()
        try:
            async with asyncio.timeout_at(self._next_limit(deadline)):
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > _MAX_ERROR_BYTES:
                        break
        except (TimeoutError, httpx2.RequestError):
            pass  # the status alone tells enough
        payload: JsonValue
        try:
            payload = load(bytes(body[:_MAX_ERROR_BYTES]))
        except ValueError:
            payload = body.decode("utf-8", "replace")
        wish = retry_after_ms(response.headers.get("retry-after"), now_ms=time.time_ns() // 1_000_000)
        return upstream_error(self.provider, "request", payload, status=response.status_code, retry_after_ms=wish)

    def _next_limit(self, deadline: float) -> float:
        return min(asyncio.get_running_loop().time() + self.limits.inactivity, deadline)

    def _too_slow(self, phase: str, deadline: float) -> ProviderError:
        if asyncio.get_running_loop().time() >= deadline:
            return transport_error(self.provider, phase, f"timed out, no end within {self.limits.whole:g} s")
        return transport_error(self.provider, phase, f"inactive, nothing received for {self.limits.inactivity:g} s")


async def _drain(chunks: AsyncIterator[bytes]) -> None:
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            while await anext(chunks, None) is not None:
                pass
    except (TimeoutError, httpx2.RequestError):
        pass  # the reply is whole; the connection is simply not used again
