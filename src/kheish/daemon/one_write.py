"""The web server's protocol, but that an answer's head and the first of its body leave together."""

from __future__ import annotations

import asyncio

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle


class OneWrite(asyncio.Transport):
    """The transport of one answer. Each write is a system call that wakes the client: the head waits for a body."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head: bytes | None = None
        self._begun = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._begun:
            if self._head is None:
                self._head = bytes(data)
                return
            data = self._head + data
            self._begun = True
        self._transport.write(data)

    def close(self) -> None:
        if self._head is not None and not self._begun:
            self._transport.write(self._head)
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()


class OneWriteProtocol(HttpToolsProtocol):
    """For `uvicorn.Config.http`."""

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        # No body follows the head of an answer to HEAD, and "100 Continue" is not the head of an answer.
        if cycle.scope["method"] != "HEAD" and not cycle.waiting_for_100_continue:
            cycle.transport = OneWrite(cycle.transport)
        super()._start_asgi_task(cycle, app)
