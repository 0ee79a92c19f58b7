"""One HTTP/1.1 connection to a model: a protocol on the loop's own transport, with a parser in C."""

from __future__ import annotations

import asyncio
import select
from typing import Protocol, cast

import httptools

from kheish.providers.exchanges import ExchangeFailed

IDLE_S = 4.5
"""A connection waits so long for a next call: a little less than most servers wait before they close one."""
_MAX_BUFFERED = 128 * 1024
"""Of a body that nobody takes; then the network waits."""
_MAX_BARREN = 100 * 1024
"""Bytes in a row that bring no piece of a body: of a head, of chunk sizes, of trailers."""

Origin = tuple[str, str, int]
"""Scheme, host, port."""


class Pool(Protocol):
    """Who keeps connections."""

    def opened(self, connection: Connection) -> None: ...
    def kept(self, connection: Connection) -> bool:
        """Keep a connection for a next call; False when there are enough."""
        ...

    def lost(self, connection: Connection) -> None: ...


class Answer:
    """What has arrived of one response, as the parser tells it."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.headed = False
        """`status` and `headers` are those of the answer, not of an interim one."""
        self.pieces: list[bytes] = []
        self.waiting_bytes = self._barren_bytes = 0
        self.delimited = False
        """The end shows in the bytes; else it is the connection's."""
        self.complete = False
        self.reusable = False
        """Nothing stands against another exchange on this connection."""
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        # What some servers write, and h11 takes too.
        self._parser.set_dangerous_leniencies(lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True)

    def feed(self, data: bytes) -> str | None:
        """Take what arrived; returns what is wrong with it."""
        assert self._parser is not None
        self._barren_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.reusable = False
            return None if self.complete else str(error)
        too_long = self._barren_bytes > _MAX_BARREN and not self.complete
        return "a head, chunk size or trailer without end" if too_long else None

    def take(self) -> bytes:
        """The body's bytes that wait."""
        data = self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)
        self.pieces.clear()
        self.waiting_bytes = 0
        return data

    def close(self) -> None:
        self._parser = None  # which holds on to this object

    def on_message_begin(self) -> None:
        self.reusable = False  # the first, or one that nobody asked for

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.headed:
            return  # a trailer
        self.headers.append((name, value))
        known = name.lower()
        chunked = known == b"transfer-encoding" and value.strip().lower().endswith(b"chunked")
        self.delimited = self.delimited or chunked or known == b"content-length"

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        if status >= 200 and not self.headed:
            self.status, self.headed, self._barren_bytes = status, True, 0
        elif not self.headed:  # an interim answer
            self.headers, self.delimited = [], False

    def on_body(self, piece: bytes) -> None:
        if self.headed and not self.complete:
            self.pieces.append(piece)
            self.waiting_bytes += len(piece)
            self._barren_bytes = 0

    def on_message_complete(self) -> None:
        assert self._parser is not None
        if self.headed and not self.complete:
            self.complete, self.reusable = True, self._parser.should_keep_alive()


class Connection(asyncio.Protocol):
    """One connection, with one exchange at a time."""

    def __init__(self, pool: Pool, origin: Origin) -> None:
        self.origin = origin
        self._pool = pool
        self._loop = asyncio.get_running_loop()  # kept: asking for it is a system call each time
        self._transport: asyncio.Transport | None = None
        self._answer: Answer | None = None
        self._failure: tuple[str, str] | None = None
        self._waiting: asyncio.Future[None] | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._paused = False
        self._unread = select.poll()

    @property
    def network(self) -> asyncio.Transport:
        assert self._transport is not None
        return self._transport

    @property
    def answer(self) -> Answer:
        """To the request of the exchange."""
        assert self._answer is not None
        return self._answer

    @property
    def status(self) -> int:
        return self.answer.status

    @property
    def ended(self) -> bool:
        return self.answer.complete

    def header(self, name: str) -> str | None:
        found = [value for key, value in self.answer.headers if key.lower() == name.encode()]
        return b", ".join(found).decode("latin-1") if found else None

    async def exchange(self, message: bytes) -> None:
        """Send a request; returns once the head of the answer is here."""
        answer, network = Answer(), self.network
        self._answer = answer
        if not network.is_closing():
            network.write(message)
        while not answer.headed:
            await self._arrival()

    async def read(self) -> bytes:
        """All that has arrived of the body; b"" at its end."""
        answer = self.answer
        while not answer.pieces:
            if answer.complete:
                return b""
            await self._arrival()
        if self._paused and not self.network.is_closing():
            self._paused = False
            self.network.resume_reading()
        return answer.take()

    async def aclose(self) -> None:
        self.let_go()

    def let_go(self) -> None:
        """The exchange is over, or given up: keep the connection if it can be used again."""
        answer, network = self._answer, self.network
        if answer is None:
            return
        self._answer = None
        answer.close()
        usable = answer.reusable and not self._paused and not network.is_closing()
        if usable and not network.get_write_buffer_size() and self._pool.kept(self):
            self._expiry = self._loop.call_later(IDLE_S, network.abort)
        else:
            network.abort()

    def taken_up(self) -> bool:
        """End the idleness; False when the server closed the connection, or said something unasked."""
        if self._expiry is not None:
            self._expiry.cancel()
        if self.network.is_closing():
            return False
        return not self._unread.poll(0)

    async def _arrival(self) -> None:
        if self._failure is not None:
            raise ExchangeFailed(*self._failure)
        self._waiting = self._loop.create_future()
        try:
            await self._waiting
        finally:
            self._waiting = None

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._unread.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        self._pool.opened(self)

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None:
            self.network.abort()  # nobody asked
            return
        if (fault := answer.feed(data)) is not None:
            self._failure = "RemoteProtocolError", fault
            self.network.abort()
        elif answer.waiting_bytes > _MAX_BUFFERED and not self._paused:
            self._paused = True
            self.network.pause_reading()
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        self._pool.lost(self)
        answer = self._answer
        if self._failure is not None:
            pass
        elif error is not None:
            self._failure = "ReadError", type(error).__name__
        elif answer is not None and answer.headed and not answer.delimited:
            answer.complete = True
        else:
            self._failure = "RemoteProtocolError", "closed before the end of the answer"
        self._wake()
