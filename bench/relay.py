"""What stands beside the daemon's streams: a bare ASGI app that calls the model and passes its bytes on, nothing else.

It uses the daemon's own HTTP client and server, keeps no state and reads nothing of what it passes on.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncGenerator

import orjson
import uvicorn
from starlette.types import Receive, Scope, Send

from kheish.providers.transport import new_model_client

_HEAD = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]


class Relay:
    """Answers each request with the model's stream; the path holds the message, with `-` for spaces.

    Under `/shared/` all requests get the stream of the first one, from the moment they came.
    """

    def __init__(self, model_url: str) -> None:
        self._model = new_model_client().target(f"{model_url}/v1/chat/completions", {})
        self._shared: asyncio.Task[None] | None = None
        self._queues: set[asyncio.Queue[bytes]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        shared, _, last = scope["path"].rpartition("/")
        message = last.replace("-", " ")
        await send({"type": "http.response.start", "status": 200, "headers": _HEAD})
        chunks = self._share(message) if shared else self._call(message)
        async for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _call(self, message: str) -> AsyncGenerator[bytes, None]:
        body = orjson.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": message}]})
        exchange = await self._model.send(body)
        try:
            while chunk := await exchange.read():
                yield chunk
        finally:
            await exchange.aclose()

    async def _share(self, message: str) -> AsyncGenerator[bytes, None]:
        if self._shared is None or self._shared.done():
            self._shared = asyncio.create_task(self._feed(message), name="shared")
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._queues.add(queue)
        try:
            while chunk := await queue.get():
                yield chunk
        finally:
            self._queues.discard(queue)

    async def _feed(self, message: str) -> None:
        async for chunk in self._call(message):
            for queue in self._queues:
                queue.put_nowait(chunk)
        for queue in self._queues:
            queue.put_nowait(b"")


def main(model_url: str) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"ready http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    config = uvicorn.Config(
        Relay(model_url), log_level="warning", access_log=False, loop="uvloop", http="httptools", lifespan="off"
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main(sys.argv[1])
