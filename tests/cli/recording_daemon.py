"""A server that answers what it was told to and remembers what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

Answer = tuple[int, Any]
"""Status and body: JSON, or bytes sent as they are."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    """Still percent-encoded."""
    query: dict[str, str] = field(default_factory=dict)
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict, compare=False)


class RecordingDaemon:
    """`answers` maps "METHOD /path" to an answer, a list used up in order (the last one stays), or a function."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer | list[Answer] | Callable[[Asked], Answer]] = {}
        self.asked: list[Asked] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def answer(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                raw = self.rfile.read(length)
                target = urlsplit(self.path)
                asked = Asked(
                    method=self.command,
                    path=target.path,
                    query=dict(parse_qsl(target.query, keep_blank_values=True)),
                    body=json.loads(raw) if raw else None,
                    headers={name.lower(): value for name, value in self.headers.items()},
                )
                outer.asked.append(asked)
                status, body = outer._answer(asked)
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json" if status < 400 else "application/problem+json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815 # the names the library calls

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def _answer(self, asked: Asked) -> Answer:
        found = self.answers.get(f"{asked.method} {asked.path}")
        if found is None:
            return problem(404, "route_not_found", "no answer was prepared")
        if isinstance(found, list):
            return found.pop(0) if len(found) > 1 else found[0]
        return found if isinstance(found, tuple) else found(asked)

    def requests(self) -> list[tuple[str, str]]:
        """Method and path of every request."""
        return [(asked.method, asked.path) for asked in self.asked]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def problem(status: int, code: str, detail: str) -> Answer:
    return status, {
        "type": f"urn:kheish:problem:{code}",
        "title": "t",
        "status": status,
        "detail": detail,
        "code": code,
    }


def run(run_id: str = "run-1", status: str = "completed", **fields: object) -> dict[str, object]:
    return {"run_id": run_id, "session_id": "demo", "status": status, **fields}
