"""One streaming POST to a model endpoint: time limits, refusals and broken connections as classified errors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.request import getproxies

import httpx2

from kheish.core.jsonvalue import JsonObject, JsonValue, encode
from kheish.providers.http1_pool import MAX_IDLE, Http1Transport
from kheish.providers.limits import Limits, Patience
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
    _fixed: httpx2.Request | None = field(init=False, default=None, repr=False, compare=False)
    """Address and headers, which are the same in every request: parsed once."""

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
        request = self._request(body, headers or {})
        if before_send is not None:
            before_send(request.content)
        with Patience(self.limits) as patience:
            response = await self._send(request, patience)
            try:
                if not response.is_success:
                    raise await self._refusal(response, patience)
                reader = ReplyReader(decoder)
                chunks = _chunks(response)
                while not reader.finished:
                    chunk = await self._receive(chunks, reader, patience)
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

    async def _send(self, request: httpx2.Request, patience: Patience) -> httpx2.Response:
        try:
            return await patience.wait(self.client.send(request, stream=True))
        except TimeoutError:
            raise self._too_slow("request", patience) from None
        except httpx2.RequestError as error:
            # Only the class is named: the text of these errors can hold headers and addresses.
            raise transport_error(self.provider, "request", f"connection failed ({type(error).__name__})") from None

    def _request(self, body: JsonObject, headers: Mapping[str, str]) -> httpx2.Request:
        try:
            fixed = self._fixed or self._fix()
            fields = httpx2.Headers(fixed.headers)
            fields.update(headers)
            return httpx2.Request("POST", fixed.url, headers=fields, content=encode(body))
        except (ValueError, TypeError, httpx2.InvalidURL):
            pass
        # Outside the handler: those errors quote the header they could not encode.
        raise local_error(self.provider, "its body, headers or address cannot be sent")

    def _fix(self) -> httpx2.Request:
        fixed = self.client.build_request(
            "POST",
            self.url,
            headers={
                "Content-Type": "application/json",
                "Accept": "text/event-stream, application/json",
                "Accept-Encoding": "identity",  # compressed bytes would hide how much has arrived
                **self.headers,
            },
        )
        del fixed.headers["content-length"]  # of no body
        fixed.headers.pop("cookie", None)  # a model call has none, and one that was set later would not be in it
        object.__setattr__(self, "_fixed", fixed)
        return fixed

    async def _receive(self, chunks: AsyncIterator[bytes], reader: ReplyReader, patience: Patience) -> bytes | None:
        """Return the next bytes, None at the end, or when the reply is complete and only its tail went missing."""
        try:
            return await patience.wait(chunks.__anext__())
        except StopAsyncIteration:
            return None
        except TimeoutError:
            failure = self._too_slow("stream", patience)
        except httpx2.RequestError as error:
            failure = transport_error(self.provider, "stream", f"connection lost ({type(error).__name__})")
        if reader.complete:
            return None
        raise failure

    async def _refusal(self, response: httpx2.Response, patience: Patience) -> ProviderError:
        body = bytearray()

        async def read() -> None:
            async for chunk in response.aiter_bytes():
                body.extend(chunk)
                if len(body) > _MAX_ERROR_BYTES:
                    break

        with suppress(TimeoutError, httpx2.RequestError):  # the status alone tells enough
            await patience.wait(read())
        payload: JsonValue
        try:
            payload = load(bytes(body[:_MAX_ERROR_BYTES]))
        except ValueError:
            payload = body.decode("utf-8", "replace")
        wish = retry_after_ms(response.headers.get("retry-after"), now_ms=time.time_ns() // 1_000_000)
        return upstream_error(self.provider, "request", payload, status=response.status_code, retry_after_ms=wish)

    def _too_slow(self, phase: str, patience: Patience) -> ProviderError:
        if patience.exhausted:
            return transport_error(self.provider, phase, f"timed out, no end within {self.limits.whole:g} s")
        return transport_error(self.provider, phase, f"inactive, nothing received for {self.limits.inactivity:g} s")


def _chunks(response: httpx2.Response) -> AsyncIterator[bytes]:
    """The body as it arrives; without the layers that decode it where nothing is to be decoded."""
    if "content-encoding" in response.headers:
        return response.aiter_bytes()
    assert isinstance(response.stream, httpx2.AsyncByteStream)
    return aiter(response.stream)


async def _drain(chunks: AsyncIterator[bytes]) -> None:
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            while await anext(chunks, None) is not None:
                pass
    except (TimeoutError, httpx2.RequestError):
        pass  # the reply is whole; the connection is simply not used again
