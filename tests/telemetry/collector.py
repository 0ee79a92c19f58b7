"""A tiny OTLP/HTTP collector: a real socket, the real wire format, and an answer the test chooses."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

DEADLINE_S = 30.0


class Received:
    """One span as it came over the wire."""

    def __init__(self, span: Any, resource: dict[str, Any]) -> None:
        self.name: str = span.name
        self.kind: int = span.kind
        self.trace_id: bytes = span.trace_id
        self.span_id: bytes = span.span_id
        self.parent_id: bytes = span.parent_span_id
        self.start_ms: int = span.start_time_unix_nano // 1_000_000
        self.end_ms: int = span.end_time_unix_nano // 1_000_000
        self.failed: bool = span.status.code == 2
        self.attributes = {pair.key: _value(pair.value) for pair in span.attributes}
        self.resource = resource


class Collector:
    """What arrived, in order. `status` is the answer; `hold` keeps every answer back until the test lets go."""

    def __init__(self) -> None:
        self.spans: list[Received] = []
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.status = 200
        self.hold: threading.Event | None = None
        self.asked = threading.Event()
        self.url = ""

    def take(self, headers: dict[str, str], body: bytes) -> int:
        self.asked.set()
        if self.hold is not None:
            self.hold.wait(DEADLINE_S)
        self.headers.append(headers)
        self.bodies.append(body)
        if self.status == 200:
            request = ExportTraceServiceRequest.FromString(body)
            for group in request.resource_spans:
                resource = {pair.key: _value(pair.value) for pair in group.resource.attributes}
                self.spans += [Received(span, resource) for scope in group.scope_spans for span in scope.spans]
        return self.status

    def named(self, name: str) -> list[Received]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> Received:
        (span,) = self.named(name)
        return span

    def wait_for(self, name: str, count: int = 1) -> list[Received]:
        deadline = time.monotonic() + DEADLINE_S
        while len(self.named(name)) < count:
            assert time.monotonic() < deadline, f"{count} spans named {name!r} did not arrive"
            time.sleep(0.02)
        return self.named(name)


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            status = collector.take({name.lower(): value for name, value in self.headers.items()}, body)
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: Any) -> None:
            return

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            return

    with Server(("127.0.0.1", 0), Handler) as server:
        collector.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield collector
        finally:
            if collector.hold is not None:
                collector.hold.set()
            server.shutdown()
            thread.join(DEADLINE_S)


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    return getattr(value, kind)
