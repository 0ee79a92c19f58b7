"""A model server on a real socket that speaks chat completions, Responses, Messages and Gemini.

The wire follows from the path. It runs on its own thread, so tests that are not asynchronous use it too:

    with ModelServer(lambda request: Answer(text="hello")) as server:
        ...  # point a route's base_url at server.url
    assert server.requests[0].body["model"] == "m"
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from tests.fakes.model_wires import (
    Answer,
    Call,
    Json,
    chat_document,
    chat_frames,
    gemini_document,
    gemini_frames,
    message_document,
    message_frames,
    response_document,
    response_frames,
)

__all__ = ["Answer", "Call", "Json", "ModelServer", "Raw", "Refusal", "Request", "Stream"]

_START_SECONDS = 10


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request as it arrived."""

    number: int
    """0 for the first."""
    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: Json

    @property
    def wire(self) -> str:
        """chat, responses, messages or gemini."""
        for part, wire in (("/responses", "responses"), ("/messages", "messages"), ("GenerateContent", "gemini")):
            if part in self.path:
                return wire
        return "chat"

    @property
    def streamed(self) -> bool:
        """Whether the client asked for a stream."""
        return self.body.get("stream") is True or self.path.endswith(":streamGenerateContent?alt=sse")

    @property
    def user_text(self) -> str:
        """The text of the last user message, on any wire."""
        for message in reversed(self.conversation):
            content = message.get("content") or message.get("parts") or []
            if message.get("role") != "user":
                continue
            if isinstance(content, str):
                return content
            texts = [piece.get("text", "") for piece in content if piece.get("type", "text") in ("text", "input_text")]
            if any(texts):
                return "".join(texts)
        return ""

    @property
    def conversation(self) -> list[Json]:
        """The messages, input items or contents of the request."""
        found = self.body.get("messages") or self.body.get("input") or self.body.get("contents") or []
        return list(found)

    @property
    def tool_results(self) -> dict[str, str]:
        """Every tool output in the request by its call id, on any wire."""
        found: dict[str, str] = {}
        for item in self.conversation:
            if item.get("role") == "tool":
                found[item["tool_call_id"]] = item["content"]
            elif item.get("type") == "function_call_output":
                found[item["call_id"]] = item["output"]
            elif item.get("role") == "user" and isinstance(item.get("content"), list):
                for block in item["content"]:
                    if block.get("type") == "tool_result":
                        found[block["tool_use_id"]] = "".join(part["text"] for part in block["content"])
            for part in item.get("parts") or []:
                if made := part.get("functionResponse"):
                    found[made["id"]] = json.dumps(made["response"])
        return found


@dataclass(frozen=True, kw_only=True)
class Stream:
    """An answer with something unusual about how it is sent."""

    answer: Answer
    as_json: bool = False
    cut_after: int | None = None
    """Close cleanly after this many frames."""
    reset_after: int | None = None
    """Break the connection after this many frames."""
    hold_after: int | None = None
    """After this many frames wait for ``hold``."""
    hold: threading.Event | None = None
    keep_alives: int = 0
    """Comments before the first frame, each its own chunk."""
    keep_alive_seconds: float = 0.0
    """Pause after each of them."""
    frame_seconds: float = 0.0
    """Pause before each frame."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A reply that is not a success."""

    status: int
    body: Json | str = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Raw:
    """Bytes, chunk by chunk; then the end, a broken connection, or silence until the client leaves."""

    chunks: Sequence[bytes] = ()
    status: int = 200
    content_type: str = "text/event-stream"
    then: str = "end"
    """end, reset or silence."""
    headers: bool = True
    """False: not even the status line is sent."""


Response = Answer | Stream | Refusal | Raw
Respond = Callable[[Request], Response | Awaitable[Response]]


class ModelServer:
    """Answers each request with what ``respond`` returns for it and remembers the requests."""

    def __init__(self, respond: Respond | Response) -> None:
        self._respond: Respond = respond if callable(respond) else (lambda _: respond)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="model-server", daemon=True)
        self._started = threading.Event()
        self._arrived = threading.Condition()
        self._stop = asyncio.Event()
        self._connections: set[asyncio.Task[None]] = set()
        self.requests: list[Request] = []
        self.connection_count = 0
        """How many connections clients have opened."""
        self.port = 0

    @property
    def url(self) -> str:
        """The API root, fit for a route's `base_url`."""
        return f"http://127.0.0.1:{self.port}"

    def wait_for_requests(self, count: int, timeout: float = 10) -> None:
        """Return once ``count`` requests have arrived; raise TimeoutError after ``timeout`` seconds."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: len(self.requests) >= count, timeout):
                raise TimeoutError(f"{len(self.requests)} requests arrived, not {count}")

    def __enter__(self) -> ModelServer:
        self._thread.start()
        if not self._started.wait(_START_SECONDS):
            raise TimeoutError("the model server did not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(_START_SECONDS)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stop.wait()
        server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        self.connection_count += 1
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client left
        finally:
            self._connections.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serve one request; False when the connection is over."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ", 2)
        headers = {
            name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)
        }
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        request = Request(
            number=len(self.requests), method=method, path=path, headers=headers, body=json.loads(body or b"{}")
        )
        with self._arrived:
            self.requests.append(request)
            self._arrived.notify_all()
        response = self._respond(request)
        if isinstance(response, Awaitable):
            response = await response
        return await self._answer(request, response, writer, reader)

    async def _answer(
        self, request: Request, response: Response, writer: asyncio.StreamWriter, reader: asyncio.StreamReader
    ) -> bool:
        if isinstance(response, Answer):
            response = Stream(answer=response, as_json=not request.streamed)
        if isinstance(response, Refusal):
            text = response.body if isinstance(response.body, str) else json.dumps(response.body)
            _write_whole(writer, response.status, "application/json", text.encode(), response.headers)
            await writer.drain()
            return True
        if isinstance(response, Raw):
            return await self._send_raw(response, writer, reader)
        if response.as_json:
            document = _DOCUMENTS[request.wire](response.answer, request.body.get("model", "m"))
            _write_whole(writer, 200, "application/json", json.dumps(document).encode(), {})
            await writer.drain()
            return True
        return await self._send_stream(request, response, writer)

    async def _send_stream(self, request: Request, response: Stream, writer: asyncio.StreamWriter) -> bool:
        _write_head(writer, 200, "text/event-stream")
        for _ in range(response.keep_alives):
            await _write_chunk(writer, b": keep-alive\n\n")
            await asyncio.sleep(response.keep_alive_seconds)
        for number, frame in enumerate(_FRAMES[request.wire](response.answer, request.body.get("model", "m"))):
            if response.hold_after == number and response.hold is not None:
                await asyncio.to_thread(response.hold.wait, 30)
            if response.frame_seconds:
                await asyncio.sleep(response.frame_seconds)
            if response.cut_after == number:
                break
            if response.reset_after == number:
                writer.transport.abort()
                return False
            await _write_chunk(writer, frame)
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    async def _send_raw(self, response: Raw, writer: asyncio.StreamWriter, reader: asyncio.StreamReader) -> bool:
        if response.headers:
            _write_head(writer, response.status, response.content_type)
        for chunk in response.chunks:
            await _write_chunk(writer, chunk)
        if response.then == "end":
            writer.write(b"0\r\n\r\n")
            await writer.drain()
            return True
        if response.then == "silence":
            await writer.drain()
            await reader.read()  # until the client gives up
        else:
            await asyncio.sleep(0)  # what was written goes out before the connection breaks
            writer.transport.abort()
        return False


_DOCUMENTS: dict[str, Callable[[Answer, str], Json]] = {
    "chat": chat_document,
    "messages": message_document,
    "responses": response_document,
    "gemini": gemini_document,
}
_FRAMES: dict[str, Callable[[Answer, str], list[bytes]]] = {
    "chat": chat_frames,
    "messages": message_frames,
    "responses": response_frames,
    "gemini": gemini_frames,
}


def _write_head(writer: asyncio.StreamWriter, status: int, content_type: str) -> None:
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n\r\n"
    writer.write(head.encode())


async def _write_chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
    await writer.drain()


def _write_whole(
    writer: asyncio.StreamWriter, status: int, content_type: str, body: bytes, headers: dict[str, Any]
) -> None:
    lines = [f"HTTP/1.1 {status} X", f"Content-Type: {content_type}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
