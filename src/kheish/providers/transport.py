"""One streaming POST to a model endpoint: time limits, refusals and broken connections as classified errors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from dataclasses import field
from urllib.request import getproxies

from kheish.core.jsonvalue import JsonValue
from kheish.core.values import value_class
from kheish.providers.exchanges import Exchange, ExchangeFailed, ModelClient, Target
from kheish.providers.http1_pool import Http1Client
from kheish.providers.limits import Limits, Patience
from kheish.providers.protocol import ModelReply, ProviderError, TextDelta
from kheish.providers.reply_reader import ReplyReader, WireDecoder
from kheish.providers.upstream_errors import retry_after_ms, transport_error, unsendable, upstream_error
from kheish.providers.wire import load

_MAX_ERROR_BYTES = 64 * 1024
_DRAIN_SECONDS = 0.05  # enough for the end of a chunked body that is already here; keeps the connection usable


def new_model_client() -> ModelClient:
    """Make what carries the daemon's model calls: many long streams, no ceiling, no redirects."""
    if getproxies().keys() & {"http", "https", "all"}:  # the library knows proxies
        from kheish.providers.http_library import LibraryClient

        return LibraryClient()
    return Http1Client()


@value_class(frozen=True, kw_only=True, slots=True)
class ModelEndpoint:
    """Where a route's model calls go and how they are authorised."""

    provider: str
    url: str
    client: ModelClient = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    limits: Limits = field(default_factory=Limits)
    _prepared: Target | None = field(init=False, default=None, repr=False, compare=False)
    """Address and headers, which are the same in every request: written once."""

    async def stream(
        self, content: bytes, decoder: WireDecoder, *, before_send: Callable[[bytes], None] | None = None
    ) -> AsyncGenerator[TextDelta | ModelReply, None]:
        """Send one request, once, and yield what arrives: deltas, then the reply.

        What follows the reply is read when the caller goes on or closes this: the connection can be used again then.

        Raises:
            ProviderError: refused, broken, too slow, or cut short. Nothing is repeated here.
        """
        target = self._prepared or self._prepare()
        if before_send is not None:
            before_send(content)
        with Patience(self.limits) as patience:
            exchange = await self._send(target, content, patience)
            try:
                if not 200 <= exchange.status < 300:
                    raise await self._refusal(exchange, patience)
                reader = ReplyReader(decoder)
                while not reader.finished:
                    chunk = await self._receive(exchange, reader, patience)
                    if not chunk:
                        break
                    for delta in reader.feed(chunk):
                        yield delta
                late, reply = reader.finish()
                for delta in late:
                    yield delta
                try:
                    yield reply
                finally:
                    if not exchange.ended:
                        await _drain(exchange)
            finally:
                await exchange.aclose()

    def _prepare(self) -> Target:
        fixed = {
            "User-Agent": "kheish",
            "Content-Type": "application/json",
            "Accept": "text/event-stream, application/json",
            "Accept-Encoding": "identity",  # compressed bytes would hide how much has arrived
        }
        with suppress(ValueError):
            prepared = self.client.target(self.url, {**fixed, **self.headers})
            object.__setattr__(self, "_prepared", prepared)
            return prepared
        # Outside the handler: those errors quote the header they could not encode.
        raise unsendable(self.provider)

    async def _send(self, target: Target, content: bytes, patience: Patience) -> Exchange:
        try:
            return await patience.wait(target.send(content))
        except TimeoutError:
            raise self._too_slow("request", patience) from None
        except ExchangeFailed as failure:
            raise transport_error(self.provider, "request", f"connection failed ({failure.kind})") from None

    async def _receive(self, exchange: Exchange, reader: ReplyReader, patience: Patience) -> bytes:
        """Return the next bytes, b"" at the end, or when the reply is complete and only its tail went missing."""
        try:
            return await patience.wait(exchange.read())
        except TimeoutError:
            failure = self._too_slow("stream", patience)
        except ExchangeFailed as lost:
            failure = transport_error(self.provider, "stream", f"connection lost ({lost.kind})")
        if reader.complete:
            return b""
        raise failure

    async def _refusal(self, exchange: Exchange, patience: Patience) -> ProviderError:
        body = bytearray()

        async def read() -> None:
            while len(body) <= _MAX_ERROR_BYTES and (chunk := await exchange.read()):
                body.extend(chunk)

        with suppress(TimeoutError, ExchangeFailed):  # the status alone tells enough
            await patience.wait(read())
        payload: JsonValue
        try:
            payload = load(bytes(body[:_MAX_ERROR_BYTES]))
        except ValueError:
            payload = body.decode("utf-8", "replace")
        wish = retry_after_ms(exchange.header("retry-after"), now_ms=time.time_ns() // 1_000_000)
        return upstream_error(self.provider, "request", payload, status=exchange.status, retry_after_ms=wish)

    def _too_slow(self, phase: str, patience: Patience) -> ProviderError:
        if patience.exhausted:
            return transport_error(self.provider, phase, f"timed out, no end within {self.limits.whole:g} s")
        return transport_error(self.provider, phase, f"inactive, nothing received for {self.limits.inactivity:g} s")


async def _drain(exchange: Exchange) -> None:
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            while await exchange.read():
                pass
    except (TimeoutError, ExchangeFailed):
        pass  # the reply is whole; the connection is simply not used again
