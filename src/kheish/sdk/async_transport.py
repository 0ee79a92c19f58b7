"""Drives flows and streams over asyncio. The only module that does the asynchronous client's I/O."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from kheish.sdk import exchange, requests, streams
from kheish.sdk.connection import Connection
from kheish.sdk.errors import ConnectionFailed, InvalidArgument, KheishError, RateLimited, ServerError
from kheish.sdk.repeating import Flow, Pause, Step, patient, repeated
from kheish.sdk.results import is_over
from kheish.sdk.sse import Event
from kheish.sdk.wire import MAX_PAGE, Call, Reply

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")


class AsyncTransport:
    """One pool of connections to one daemon."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._client: httpx2.AsyncClient | None = None
        self._closed = False

    async def close(self) -> None:
        """Close every connection; the client cannot be used after it."""
        self._closed = True
        if self._client is not None:
            await self._client.aclose()

    async def drive(self, flow: Flow[T]) -> T:
        """Do what the flow asks for until it has its result."""
        try:
            step = next(flow)
            while True:
                try:
                    result = await self._perform(step)
                except KheishError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(result)
        except StopIteration as done:
            value: T = done.value
            return value

    async def call(self, call: Call[T]) -> T:
        """One call with its repetitions."""
        return await self.drive(repeated(call, self.connection))

    async def pages(self, page: requests.PageCall[T], limit: int | None = None) -> AsyncGenerator[T, None]:
        """Every item of a list, page by page as they are needed."""
        cursor: str | None = None
        left = limit
        while left is None or left > 0:
            found = await self.call(page(cursor, MAX_PAGE if left is None else min(left, MAX_PAGE)))
            for item in found.items[:left]:
                yield item
            left = None if left is None else left - len(found.items)
            cursor = found.next_cursor
            if cursor is None:
                return

    async def events(self, watched: streams.Watched) -> AsyncGenerator[Event, None]:
        """Events of a stream without end, heartbeats among them."""
        subscription = streams.Subscription(watched, self.connection)
        while True:
            failure: KheishError | None = None
            try:
                async with self._opened(subscription.call()) as chunks:
                    for event in subscription.opened():
                        yield event
                    async for chunk in chunks:
                        for event in subscription.feed(chunk):
                            yield event
            except (ConnectionFailed, ServerError, RateLimited) as error:
                failure = error
            await asyncio.sleep(subscription.lost(failure))

    async def changes(self, watched: streams.Watched) -> AsyncGenerator[Event, None]:
        """Events of a stream without end."""
        async with aclosing(self.events(watched)) as events:
            async for event in events:
                if event.type != "heartbeat":
                    yield event

    async def run_events(self, run_id: str, cursor: int | None) -> AsyncGenerator[Event, None]:
        """Events of a run until it is over."""
        async with aclosing(self.events(streams.run(run_id, cursor))) as events:
            async for event in events:
                if event.type in ("heartbeat", "stream_gap"):
                    # Silence or a loss: what the stream did not tell, the run itself does.
                    run = await self.drive(patient(requests.get_run(run_id), self.connection))
                    if event.type == "stream_gap":
                        yield event
                        yield streams.after_gap(run)
                    if is_over(run):
                        return
                    continue
                yield event
                if streams.ends_run(event):
                    return

    async def run_text(self, run_id: str) -> AsyncGenerator[str, None]:
        """The run's text as it is written."""
        text = streams.TextAssembler()
        async with aclosing(self.run_events(run_id, 0)) as events:
            async for event in events:
                piece = text.feed(event)
                if piece:
                    yield piece
        rest = "" if text.complete else text.finish(await self.call(requests.get_run(run_id)))
        if rest:
            yield rest

    async def _perform(self, step: Step) -> object:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        try:
            return (await self._exchange(step)).result_of(step)
        except KheishError as error:
            raise self.connection.without_token(error) from None

    async def _exchange(self, call: Call[T]) -> Reply:
        limit = call.timeout_seconds or self.connection.timeout_seconds
        client = self._http()
        request = exchange.request(client, self.connection, call, limit)
        try:
            with exchange.failures(self.connection, limit):
                async with asyncio.timeout(limit):
                    response = await client.send(request)
        except TimeoutError:
            raise exchange.too_slow(self.connection, limit) from None
        return Reply(status=response.status_code, headers=exchange.headers(response), body=response.content)

    @asynccontextmanager
    async def _opened(self, call: Call[None]) -> AsyncIterator[AsyncIterator[bytes]]:
        limit = self.connection.timeout_seconds
        client = self._http()
        request = exchange.request(client, self.connection, call, limit, idle=streams.IDLE_SECONDS)
        with exchange.failures(self.connection, streams.IDLE_SECONDS):
            response = await client.send(request, stream=True)
            async with aclosing(response):
                head = exchange.headers(response)
                if not exchange.is_stream(response):
                    refusal = Reply(status=response.status_code, headers=head, body=await response.aread())
                    raise self.connection.without_token(exchange.not_a_stream(refusal))
                yield response.aiter_bytes()

    def _http(self) -> httpx2.AsyncClient:
        """The HTTP client, made with the first request.

        Raises:
            InvalidArgument: this client is closed.
        """
        if self._closed:
            raise InvalidArgument("this client is closed")
        if self._client is None:
            import httpx2  # `import kheish` must stay cheap

            self._client = httpx2.AsyncClient(**exchange.client_settings(self.connection))
        return self._client
