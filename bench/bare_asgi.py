"""What the web server itself can do: an ASGI app that answers a canned body, or streams canned events."""

from __future__ import annotations

import socket

import uvicorn
from starlette.types import Receive, Scope, Send

_BODY = b'{"status":"completed","output":"done"}'
_EVENT = (
    b"event: output_delta\n"
    b'data: {"run_id":"run-1","session_id":"session-1","turn":1,"attempt":1,"part":0,"text":" word"}\n\n'
)
_STREAMED = "/events/"


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """`/events/N` streams N events, one `send` each; anything else reads the request and answers at once."""
    if scope["path"].startswith(_STREAMED):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        for _ in range(int(scope["path"].removeprefix(_STREAMED))):
            await send({"type": "http.response.body", "body": _EVENT, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        return
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(_BODY)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": _BODY})


def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"ready http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    config = uvicorn.Config(app, log_level="warning", access_log=False, loop="uvloop", http="httptools", lifespan="off")
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
