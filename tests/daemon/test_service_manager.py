"""The daemon reports its life to whoever started it, over a real socket."""

from __future__ import annotations

import secrets
import socket
import sys
import tempfile
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from kheish.daemon.service_manager import READY, tell


def heard(bound: str, given: str) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(bound)
        manager.settimeout(30)
        tell({"NOTIFY_SOCKET": given}, READY)
        return manager.recv(100)


def test_a_manager_on_a_path_hears_the_message() -> None:
    # Not below tmp_path, which may be too long for a socket's address.
    with tempfile.TemporaryDirectory() as folder:
        address = str(Path(folder) / "notify")
        assert heard(address, address) == b"READY=1"


@pytest.mark.skipif(sys.platform != "linux", reason="names outside the file system are Linux's")
def test_a_manager_outside_the_file_system_hears_the_message() -> None:
    name = f"kheish-{secrets.token_hex(8)}"
    assert heard("\0" + name, "@" + name) == b"READY=1"


@pytest.mark.parametrize("variables", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "relative"}])
def test_nothing_is_sent_where_no_manager_listens(variables: dict[str, str]) -> None:
    with capture_logs() as lines:
        tell(variables, READY)
    assert lines == []


def test_a_manager_that_is_gone_is_logged_and_stops_nothing(tmp_path: Path) -> None:
    with capture_logs() as lines:
        tell({"NOTIFY_SOCKET": str(tmp_path / "gone")}, READY)
    assert [line["event"] for line in lines] == ["daemon.service_manager_unreachable"]
