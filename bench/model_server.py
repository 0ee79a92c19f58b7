"""A fake chat-completions server that is never the slow part: canned bytes over a raw asyncio protocol."""

from __future__ import annotations

import asyncio
import sys
from typing import cast


def _stream(*chunks: str) -> bytes:
    body = "".join(f"data: {chunk}\n\n" for chunk in (*chunks, "[DONE]")).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


_ANSWER = _stream(
    '{"id":"a","choices":[{"index":0,"delta":{"role":"assistant","content":"done"},"finish_reason":null}]}',
    '{"id":"a","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],'
    '"usage":{"prompt_tokens":10,"completion_tokens":1}}',
)
_CALL = _stream(
    '{"id":"b","choices":[{"index":0,"delta":{"role":"assistant","tool_calls":[{"index":0,"id":"t","type":"function",'
    '"function":{"name":"read_file","arguments":"{\\"path\\":\\"note.txt\\"}"}}]},"finish_reason":null}]}',
    '{"id":"b","choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}],'
    '"usage":{"prompt_tokens":10,"completion_tokens":5}}',
)


class ModelProtocol(asyncio.Protocol):
    """Answers each request: a tool call for a fresh "use a tool" message, else text."""

    def __init__(self) -> None:
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0] or 0)
            if len(self._buffer) < end + 4 + length:
                return
            body = self._buffer[end + 4 : end + 4 + length]
            self._buffer = self._buffer[end + 4 + length :]
            assert self._transport is not None
            self._transport.write(_reply(body))


def _reply(body: bytes) -> bytes:
    last_user = body.rfind(b"use a tool")
    wants_tool = last_user >= 0 and body.find(b'"role":"tool"', last_user) < 0
    return _CALL if wants_tool else _ANSWER


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(ModelProtocol, "127.0.0.1", port)
    print(f"ready http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 0))
