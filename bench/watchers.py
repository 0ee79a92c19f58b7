"""Light watchers of streams: a connection each, one thread that reads them all, and nothing understood before the end.

How late a token is: from the moment inside it, when the model server wrote it, to its arrival here. What a watcher
spends on the tokens before it, and the time between two looks, count against the daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import selectors
import socket
import threading
import time
from array import array
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar
from urllib.parse import urlsplit

from bench.model_server import TOKEN, now_us

DEADLINE_S = 10.0
"""For a stream to stand, and for its first token."""
_TOKEN_FRAME = re.compile(rb'event: output_delta\n|"delta":\{"content":')
"""Of the daemon, of the model server. A daemon's `output` event holds the tokens once more and is no arrival."""
_PIECE = 64 * 1024
_T = TypeVar("_T")
_STOP_LOOK_S = 0.05
_AT_ONCE = 16


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


class Arrivals:
    """How late those tokens came that were written in one span of time, in microseconds."""

    def __init__(self) -> None:
        self.wanted = False
        self.pieces: deque[tuple[Watcher, int, bytes]] = deque()
        """As they came; read when there is time."""
        self._from_us = self._until_us = 0
        self._late_us = array("L")

    def expect(self, from_us: int, until_us: int) -> None:
        """Keep what comes from now on. The span begins later than now: no piece of its tokens is missed."""
        self._from_us, self._until_us = from_us, until_us
        self._late_us = array("L")
        self.wanted = True

    def read(self) -> array[int]:
        """All that came so far."""
        while self.pieces:
            watcher, arrived_us, piece = self.pieces.popleft()
            for written_us in watcher.tokens(piece):
                if self._from_us <= written_us < self._until_us:
                    self._late_us.append(max(arrived_us - written_us, 0))
        return self._late_us

    def forget(self) -> None:
        """Keep nothing until the next `expect`."""
        self.wanted = False
        self.pieces.clear()


class Watcher:
    """One stream that is read."""

    def __init__(self, connection: socket.socket, arrivals: Arrivals) -> None:
        self.connection = connection
        self._arrivals = arrivals
        self._loop = asyncio.get_running_loop()
        self._early = b""
        self._rest = b""
        self._begun = False
        self.open: asyncio.Future[None] = self._loop.create_future()
        """Done when the stream stands; a `ConnectionError` when it was refused."""
        self.first: asyncio.Future[int] = self._loop.create_future()
        """How late the first token was, in microseconds."""

    def take(self, piece: bytes, arrived_us: int) -> None:
        """Called by the thread that reads."""
        if not self._begun:
            self._begin(piece, arrived_us)
        if self._arrivals.wanted:
            self._arrivals.pieces.append((self, arrived_us, piece))

    def tokens(self, piece: bytes) -> list[int]:
        """When the tokens of whole frames were written; an unfinished frame waits for its rest."""
        piece = self._rest + piece
        end = piece.rfind(b"\n\n") + 2
        if end < 2:
            self._rest = piece
            return []
        self._rest = piece[end:]
        frames = piece[:end].split(b"\n\n")
        return [int(moment) for frame in frames if _TOKEN_FRAME.search(frame) for moment in TOKEN.findall(frame)]

    def _begin(self, piece: bytes, arrived_us: int) -> None:
        self._early += piece
        head, stands, body = self._early.partition(b"\r\n\r\n")
        if not piece or not head.startswith(b"HTTP/1.1 200"[: len(head)]):
            self._tell(self.open, ConnectionError(f"no stream: {self._early[:300]!r}"))
            self._tell(self.first, ConnectionError("the stream ended before its first token"))
            self._begun = True
        elif stands:
            self._tell(self.open, None)
            frame = _TOKEN_FRAME.search(body)
            if frame and (moment := TOKEN.search(body, frame.end())):
                self._tell(self.first, arrived_us - int(moment[1]))
                self._begun, self._early = True, b""

    def _tell(self, future: asyncio.Future[_T], result: _T | Exception) -> None:
        def settle() -> None:
            if future.done():
                return
            if isinstance(result, Exception):
                future.set_exception(result)
                future.exception()  # whoever waits gets it; nobody may wait
            else:
                future.set_result(result)

        self._loop.call_soon_threadsafe(settle)


class Watchers:
    """Reads every connection from one thread. Use as a context manager."""

    def __init__(self, *, nap_s: float = 0.0) -> None:
        self._nap_s = nap_s
        """Between two looks: many small wake-ups would cost more than the reading."""
        self._selector = selectors.DefaultSelector()
        self._stopped = False
        self._thread = threading.Thread(target=self._read_all, name="watchers", daemon=True)

    def __enter__(self) -> Watchers:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped = True
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            key.data.connection.close()
        self._selector.close()

    async def watch(self, url: str, path: str, token: str | None, arrivals: Arrivals) -> Watcher:
        """A watcher whose stream stands.

        Raises:
            ConnectionError: the stream was refused.
        """
        parts = urlsplit(url)
        host, port = parts.hostname or "127.0.0.1", parts.port or 80
        access = "" if token is None else f"authorization: Bearer {token}\r\n"
        connection = socket.create_connection((host, port), DEADLINE_S)
        connection.sendall(f"GET {path} HTTP/1.1\r\nhost: {host}:{port}\r\n{access}\r\n".encode())
        connection.setblocking(False)
        watcher = Watcher(connection, arrivals)
        self._selector.register(connection, selectors.EVENT_READ, watcher)
        async with asyncio.timeout(DEADLINE_S):
            await watcher.open
        return watcher

    async def watch_often(
        self, times: int, url: str, path: str, token: str | None, arrivals: Arrivals
    ) -> list[Watcher]:
        """So many watchers of one stream."""
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one() -> Watcher:
            async with gate:
                return await self.watch(url, path, token, arrivals)

        return await asyncio.gather(*(one() for _ in range(times)))

    def leave(self, watcher: Watcher) -> None:
        """Without a word, as a client that is killed."""
        with contextlib.suppress(KeyError, ValueError):  # the other thread was first
            self._selector.unregister(watcher.connection)
        watcher.connection.close()

    def _read_all(self) -> None:
        while not self._stopped:
            time.sleep(self._nap_s)
            for key, _ in self._selector.select(_STOP_LOOK_S):
                watcher: Watcher = key.data
                try:
                    piece = watcher.connection.recv(_PIECE)
                except OSError:
                    piece = b""
                watcher.take(piece, now_us())
                if not piece:
                    self.leave(watcher)
