"""Light watchers of streams: a connection each, one thread for all, and nothing read but when each token was written.

How late a token is: from the moment inside it, when the model server wrote it, to its arrival here. Time a watcher
spends on the tokens before it counts against the daemon.
"""

from __future__ import annotations

import asyncio
from array import array
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

from bench.model_server import TOKEN, now_us

DEADLINE_S = 10.0
"""For a first token."""
_BEFORE_EVERY_TOKEN = (b"event: output_delta\n", b'"delta":{"content":')
"""Of the daemon, of the model server. A daemon's `output` event holds the tokens once more and is no arrival."""


class Arrivals:
    """How late tokens came that were written in one span of time, in microseconds."""

    def __init__(self) -> None:
        self._from_us = self._until_us = 0
        self.late_us = array("L")

    def expect(self, from_us: int, until_us: int) -> None:
        """Forget what came; take the tokens written in this span."""
        self._from_us, self._until_us = from_us, until_us
        self.late_us = array("L")

    def take(self, written_us: int, arrived_us: int) -> None:
        if self._from_us <= written_us < self._until_us:
            self.late_us.append(max(arrived_us - written_us, 0))


@dataclass(frozen=True, kw_only=True, slots=True)
class Lateness:
    """Percentiles in milliseconds."""

    p50: float
    p95: float
    count: int

    @classmethod
    def of(cls, late_us: array[int], missing: int = 0) -> Lateness:
        """Of those that came, and of those that did not, which are late for ever."""
        ranked = sorted(late_us)
        count = len(ranked) + missing

        def at(share: float) -> float:
            place = int(count * share)
            return ranked[place] / 1000 if place < len(ranked) else float("inf")

        return cls(p50=at(0.5), p95=at(0.95), count=len(ranked))


class Watcher(asyncio.Protocol):
    """One connection that reads one stream; see `watch`."""

    def __init__(self, request: bytes, arrivals: Arrivals) -> None:
        self._request = request
        self._arrivals = arrivals
        self._rest = b""
        loop = asyncio.get_running_loop()
        self.open: asyncio.Future[None] = loop.create_future()
        """Done when the stream stands."""
        self.first: asyncio.Future[int] = loop.create_future()
        """How late the first token was, in microseconds."""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        arrived_us = now_us()
        if not self.open.done():
            self._begin(data)
        data = self._rest + data
        end = data.rfind(b"\n\n") + 2
        if end < 2:
            self._rest = data
            return
        self._rest = data[end:]
        for frame in data[:end].split(b"\n\n"):
            if _BEFORE_EVERY_TOKEN[0] in frame or _BEFORE_EVERY_TOKEN[1] in frame:
                for written in TOKEN.findall(frame):
                    self._token(int(written), arrived_us)

    def connection_lost(self, error: Exception | None) -> None:
        for future in (self.open, self.first):
            if not future.done():
                future.set_exception(error or ConnectionError("the stream ended before its first token"))
                future.exception()  # whoever waits gets it; nobody may wait

    def close(self) -> None:
        """Leave without a word, as a client that is killed."""
        if self._transport is not None:
            self._transport.abort()

    def _begin(self, data: bytes) -> None:
        if data.startswith(b"HTTP/1.1 200"):
            self.open.set_result(None)
        else:
            self.open.set_exception(ConnectionError(f"refused: {data[:300]!r}"))

    def _token(self, written_us: int, arrived_us: int) -> None:
        self._arrivals.take(written_us, arrived_us)
        if not self.first.done():
            self.first.set_result(arrived_us - written_us)


async def watch(url: str, path: str, token: str | None, arrivals: Arrivals) -> Watcher:
    """A watcher whose stream stands.

    Raises:
        ConnectionError: the stream was refused.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    access = "" if token is None else f"authorization: Bearer {token}\r\n"
    request = f"GET {path} HTTP/1.1\r\nhost: {host}:{port}\r\n{access}\r\n".encode()
    loop = asyncio.get_running_loop()
    _, watcher = await loop.create_connection(lambda: Watcher(request, arrivals), host, port)
    async with asyncio.timeout(DEADLINE_S):
        await watcher.open
    return watcher
