"""What stands beside the daemon's streams: a bare ASGI app that calls the model and passes its bytes on, nothing else.

It uses the daemon's own HTTP client and server, keeps no state and reads nothing of what it passes on.
"""

from __future__ import annotations

import socket
import sys

import orjson
import uvicorn
from starlette.types import Receive, Scope, Send

from kheish.providers.transport import new_client

_HEAD = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]


class Relay:
    """Answers each request with the model's stream; the path holds the message, with `-` for spaces."""

    def __init__(self, model_url: str) -> None:
        self._client = new_client()
        self._url = f"{model_url}/v1/chat/completions"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = scope["path"].removeprefix("/").replace("-", " ")
        body = orjson.dumps({"model": "m", "stream": True, "messages": [{"role": "user", "content": message}]})
        async with self._client.stream("POST", self._url, content=body) as response:
            await send({"type": "http.response.start", "status": response.status_code, "headers": _HEAD})
            async for chunk in response.aiter_bytes():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def main(model_url: str) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"ready http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    config = uvicorn.Config(
        Relay(model_url), log_level="warning", access_log=False, loop="uvloop", http="httptools", lifespan="off"
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main(sys.argv[1])
