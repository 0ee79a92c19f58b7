"""Drives flows and streams over blocking HTTP. The only module that does the synchronous client's I/O."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, TypeVar

from kheish.sdk import exchange, streams
from kheish.sdk.connection import Connection
from kheish.sdk.errors import ConnectionFailed, InvalidArgument, KheishError, RateLimited, ServerError
from kheish.sdk.repeating import Flow, Pause, Step, patient, repeated
from kheish.sdk.results import is_over
from kheish.sdk.sse import Event
from kheish.sdk.wire import MAX_PAGE, Call, Reply

if TYPE_CHECKING:
    import httpx2

    from kheish.sdk.requests import PageCall
    from kheish.sdk.types import RunView

T = TypeVar("T")


class Transport:
    """One pool of connections to one daemon."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._client: httpx2.Client | None = None
        self._closed = False

    def close(self) -> None:
        """Close every connection; the client cannot be used after it."""
        self._closed = True
        if self._client is not None:
            self._client.close()

    def drive(self, flow: Flow[T]) -> T:
        """Do what the flow asks for until it has its result."""
        try:
            step = next(flow)
            while True:
                try:
                    result = self._perform(step)
                except KheishError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(result)
        except StopIteration as done:
            value: T = done.value
            return value

    def call(self, call: Call[T]) -> T:
        """One call with its repetitions."""
        return self.drive(repeated(call, self.connection))

    def pages(self, page: PageCall[T], limit: int | None = None) -> Generator[T, None, None]:
        """Every item of a list, page by page as they are needed."""
        cursor: str | None = None
        left = limit
        while left is None or left > 0:
            found = self.call(page(cursor, MAX_PAGE if left is None else min(left, MAX_PAGE)))
            yield from found.items[:left]
            left = None if left is None else left - len(found.items)
            cursor = found.next_cursor
            if cursor is None:
                return

    def events(self, watched: streams.Watched) -> Generator[Event, None, None]:
        """Events of a stream without end, heartbeats among them."""
        subscription = streams.Subscription(watched, self.connection)
        while True:
            failure: KheishError | None = None
            try:
                with self._opened(subscription.call()) as chunks:
                    yield from subscription.opened()
                    for chunk in chunks:
                        yield from subscription.feed(chunk)
            except (ConnectionFailed, ServerError, RateLimited) as error:
                failure = error
            time.sleep(subscription.lost(failure))

    def changes(self, watched: streams.Watched) -> Generator[Event, None, None]:
        """Events of a stream without end."""
        with closing(self.events(watched)) as events:
            yield from (event for event in events if event.type != "heartbeat")

    def run_events(self, run_id: str, cursor: int | None) -> Generator[Event, None, None]:
        """Events of a run until it is over."""
        with closing(self.events(streams.run(run_id, cursor))) as events:
            for event in events:
                if event.type in ("heartbeat", "stream_gap"):
                    # Silence or a loss: what the stream did not tell, the run itself does.
                    run = self.drive(patient(_run(run_id), self.connection))
                    if event.type == "stream_gap":
                        yield event
                        yield streams.after_gap(run)
                    if is_over(run):
                        return
                    continue
                yield event
                if streams.ends_run(event):
                    return

    def run_text(self, run_id: str) -> Generator[str, None, None]:
        """The run's text as it is written."""
        text = streams.TextAssembler()
        with closing(self.run_events(run_id, 0)) as events:
            for event in events:
                piece = text.feed(event)
                if piece:
                    yield piece
        rest = "" if text.complete else text.finish(self.call(_run(run_id)))
        if rest:
            yield rest

    def _perform(self, step: Step) -> object:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        try:
            return self._exchange(step).result_of(step)
        except KheishError as error:
            raise self.connection.without_token(error) from None

    def _exchange(self, call: Call[T]) -> Reply:
        limit = call.timeout_seconds or self.connection.timeout_seconds
        deadline = time.monotonic() + limit
        client = self._http()
        request = exchange.request(client, self.connection, call, limit)
        with exchange.failures(self.connection, limit):
            response = client.send(request, stream=True)
            with closing(response):
                body = bytearray()
                for chunk in response.iter_bytes():
                    body += chunk
                    if time.monotonic() > deadline:
                        raise exchange.too_slow(self.connection, limit)
                return Reply(status=response.status_code, headers=exchange.headers(response), body=bytes(body))

    @contextmanager
    def _opened(self, call: Call[None]) -> Iterator[Iterator[bytes]]:
        limit = self.connection.timeout_seconds
        client = self._http()
        request = exchange.request(client, self.connection, call, limit, idle=streams.IDLE_SECONDS)
        with exchange.failures(self.connection, streams.IDLE_SECONDS):
            response = client.send(request, stream=True)
            with closing(response):
                head = exchange.headers(response)
                if not exchange.is_stream(response):
                    refusal = Reply(status=response.status_code, headers=head, body=response.read())
                    raise self.connection.without_token(exchange.not_a_stream(refusal))
                yield response.iter_bytes()

    def _http(self) -> httpx2.Client:
        """The HTTP client, made with the first request.

        Raises:
            InvalidArgument: this client is closed.
        """
        if self._closed:
            raise InvalidArgument("this client is closed")
        if self._client is None:
            import httpx2  # `import kheish` must stay cheap

            self._client = httpx2.Client(**exchange.client_settings(self.connection))
        return self._client


def _run(run_id: str) -> Call[RunView]:
    from kheish.sdk.requests import get_run  # late: the types of the API take long to import

    return get_run(run_id)
