"""An HTTP server on a real socket that answers as a test says: refusals, silence, broken connections, event streams."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, urlsplit

DEADLINE_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request as it arrived."""

    number: int
    """0 for the first."""
    method: str
    path: str
    """As sent, percent-encoding and all."""
    params: dict[str, str]
    headers: dict[str, str]
    """Names in lower case."""
    body: Any


@dataclass(frozen=True, kw_only=True)
class Says:
    """A whole answer."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    media_type: str = "application/json"


@dataclass(frozen=True, kw_only=True)
class Streams:
    """Pieces of an event stream; then a break, the end, or silence until the server stops."""

    pieces: Iterable[bytes] = ()
    then: str = "end"
    """end, break or hold."""
    media_type: str = "text/event-stream"


@dataclass(frozen=True, kw_only=True)
class Breaks:
    """The connection is reset without an answer."""


@dataclass(frozen=True, kw_only=True)
class Silence:
    """No answer until the server stops."""


Behaviour: TypeAlias = "Says | Streams | Breaks | Silence"
Respond: TypeAlias = Callable[[Asked], Behaviour]


def problem(status: int, code: str, *, domain: str | None = None, detail: str = "", **headers: str) -> Says:
    """A refusal as the daemon words it."""
    body = {"type": f"urn:kheish:problem:{code}", "title": "t", "status": status, "detail": detail, "code": code}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Says(
        status=status,
        body={**body, **({} if domain is None else {"domain": domain})},
        headers=named,
        media_type="application/problem+json",
    )


def frame(data: dict[str, Any], event_id: int | None = None) -> bytes:
    """One event as the daemon sends it."""
    head = "" if event_id is None else f"id: {event_id}\n"
    return f"{head}event: {data['type']}\ndata: {json.dumps(data)}\n\n".encode()


def run_json(status: str = "running", run_id: str = "run-1", **fields: Any) -> dict[str, Any]:
    """A RunView."""
    view = {
        "run_id": run_id,
        "session_id": "demo",
        "agent_id": "agent-demo",
        "kind": "input",
        "status": status,
        "submitted_at_ms": 1,
        "updated_at_ms": 2,
        "request": {"source_plugin": "daemon", "source_kind": "api", "actor_id": "user", "provider": "main"},
    }
    return {**view, **fields}


def output_json(text: str) -> dict[str, Any]:
    """An OutputRecord."""
    return {
        "session_id": "demo",
        "run_id": "run-1",
        "content": text,
        "source_kind": "assistant_text",
        "address": None,
    }


def session_json(session_id: str = "demo") -> dict[str, Any]:
    """A SessionView."""
    agent = {
        "id": "agent-demo",
        "parent": None,
        "conversation": {"session_id": session_id, "thread_id": None},
        "status": "idle",
        "retention": "retain",
        "spawned_at_ms": 1,
        "subtasks": [],
        "sidechain_session_id": None,
        "fork_context": None,
    }
    snapshot = {
        "agent": agent,
        "pending_approvals": [],
        "last_assistant_message": None,
        "journal_len": 0,
        "checkpoint_len": 0,
        "last_error": None,
    }
    return {"session_id": session_id, "agent_id": "agent-demo", "snapshot": snapshot, "outputs": []}


class WireServer:
    """Answers every request by ``respond``; remembers what it was asked."""

    def __init__(self, respond: Respond) -> None:
        self.respond = respond
        self.asked: list[Asked] = []
        self._stopping = threading.Event()
        self._arrived = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def wait_for_requests(self, count: int) -> None:
        """Block until this many have arrived."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.asked) >= count, DEADLINE_SECONDS)

    def __enter__(self) -> WireServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._thread.join(DEADLINE_SECONDS)
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _answer(self) -> None:
                owner._answer(self)

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _answer  # noqa: N815  # the library's names

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        return Handler

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers.get("content-length", "0"))
        raw = handler.rfile.read(length)
        parts = urlsplit(handler.path)
        with self._arrived:
            asked = Asked(
                number=len(self.asked),
                method=handler.command,
                path=parts.path,
                params=dict(parse_qsl(parts.query)),
                headers={name.lower(): value for name, value in handler.headers.items()},
                body=json.loads(raw) if raw else None,
            )
            self.asked.append(asked)
            self._arrived.notify_all()
        match self.respond(asked):
            case Says() as says:
                _say(handler, says)
            case Streams() as streams:
                self._stream(handler, streams)
            case Breaks():
                _reset(handler)
            case Silence():
                self._stopping.wait(DEADLINE_SECONDS)
                handler.close_connection = True

    def _stream(self, handler: BaseHTTPRequestHandler, streams: Streams) -> None:
        handler.close_connection = True
        head = f"HTTP/1.1 200 OK\r\ncontent-type: {streams.media_type}\r\nconnection: close\r\n\r\n"
        try:
            handler.wfile.write(head.encode())
            for piece in streams.pieces:
                handler.wfile.write(piece)
                handler.wfile.flush()
        except OSError:
            return  # the client has left
        if streams.then == "hold":
            self._stopping.wait(DEADLINE_SECONDS)
        if streams.then == "break":
            _reset(handler)


def _say(handler: BaseHTTPRequestHandler, says: Says) -> None:
    text = "" if says.body is None else json.dumps(says.body) if not isinstance(says.body, bytes) else None
    body = says.body if text is None else text.encode()
    handler.send_response(says.status)
    for name, value in {"content-type": says.media_type, "content-length": str(len(body)), **says.headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def _reset(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True
    # Lingering for no time makes closing a reset instead of an orderly end.
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    handler.wfile.flush()
    handler.connection.close()
