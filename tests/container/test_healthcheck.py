"""The image's health script without an engine: whom it asks, and what counts as ready."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the image's userland is GNU's")

SCRIPT = Path(__file__).resolve().parents[2] / "docker" / "healthcheck.sh"


class _Server(HTTPServer):
    def __init__(self, host: str, status: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.status = status
        self.asked: list[str] = []
        super().__init__((host, 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.send_response(self.server.status)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"answer")

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@contextmanager
def answering(host: str = "127.0.0.1", status: int = 200) -> Iterator[_Server]:
    with _Server(host, status) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def healthy(home: Path, **variables: str) -> bool:
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "KHEISH_BOUND_ADDRESS_FILE": str(home / "address"),
        **variables,
    }
    done = subprocess.run(["sh", str(SCRIPT)], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("", "")
    return done.returncode == 0


@pytest.mark.parametrize(
    ("host", "bind"),
    [
        ("127.0.0.1", "0.0.0.0:{port}"),
        ("127.0.0.1", "127.0.0.1:{port}"),
        ("127.0.0.1", "localhost:{port}"),
        ("127.0.0.2", "127.0.0.2:{port}"),
        ("::1", "[::]:{port}"),
        ("::1", ":::{port}"),
        ("::1", "[::1]:{port}"),
        ("::1", "::1:{port}"),
    ],
)
def test_readiness_is_asked_where_the_daemon_listens(tmp_path: Path, host: str, bind: str) -> None:
    with answering(host) as server:
        address = bind.format(port=server.server_port)
        assert healthy(tmp_path, KHEISH_BIND=address)
        (tmp_path / "address").write_text(f"{address}\n")
        assert healthy(tmp_path, KHEISH_BIND="0.0.0.0:1"), "the address that the daemon wrote beats what it was told"

    assert server.asked == ["/readyz", "/readyz"]


@pytest.mark.parametrize(("status", "ready"), [(200, True), (204, True), (302, False), (401, False), (503, False)])
def test_only_a_2xx_is_ready(tmp_path: Path, status: int, ready: bool) -> None:
    """Case 21."""
    with answering(status=status) as server:
        url = f"http://127.0.0.1:{server.server_port}/custom?x=1"
        assert healthy(tmp_path, KHEISH_HEALTHCHECK_URL=url) is ready

    assert server.asked == ["/custom?x=1"]


def test_nobody_there_is_not_ready(tmp_path: Path) -> None:
    with answering() as server:
        port = server.server_port
    assert not healthy(tmp_path, KHEISH_BIND=f"0.0.0.0:{port}")


def test_neither_a_proxy_nor_a_curlrc_of_an_agent_changes_the_answer(tmp_path: Path) -> None:
    with answering(status=200) as other, answering(status=503) as daemon:
        other_url = f"http://127.0.0.1:{other.server_port}"
        (tmp_path / ".curlrc").write_text(f'proxy = "{other_url}"\nwrite-out = "200"\n')
        assert not healthy(tmp_path, KHEISH_BIND=f"0.0.0.0:{daemon.server_port}", http_proxy=other_url)

    assert other.asked == []
