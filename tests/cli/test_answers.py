"""What comes out: JSON in two forms, error lines, exit codes."""

from __future__ import annotations

import json
import socket
import threading

import pytest

from kheish.cli import daemon_client
from kheish.cli.daemon_client import path_of
from tests.cli.conftest import CommandLine
from tests.cli.recording_daemon import RecordingDaemon, problem


def test_pretty_and_json_are_the_same_value_and_json_is_one_line(daemon: RecordingDaemon, kheish: CommandLine) -> None:
    value = {"text": "žluťoučký\n\u2028 \x1b[31m \x9b2J\x7f", "n": 12345678901234567890, "rows": [{}, [], None, 1.5]}
    daemon.answers["GET /v1/runtime"] = (200, value)
    pretty, line = kheish("runtime", "get").stdout, kheish("runtime", "get", "--output", "json").stdout
    assert json.loads(pretty) == json.loads(line) == value
    assert line.count("\n") == 1
    assert pretty.startswith('{\n  "text"')
    assert not {"\x1b", "\x9b", "\x7f"} & set(pretty + line)


def test_what_the_terminal_cannot_encode_is_written_as_json_escapes(
    daemon: RecordingDaemon, kheish: CommandLine
) -> None:
    daemon.answers["GET /v1/runtime"] = (200, b'{"half": "\\ud800", "whole": "\\u20ac"}')
    assert kheish("runtime", "get", "--output", "json").stdout == '{"half":"\\ud800","whole":"€"}\n'


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, 2),
        (413, 2),
        (401, 4),
        (403, 4),
        (404, 5),
        (409, 6),
        (408, 7),
        (429, 7),
        (503, 7),
        (504, 7),
        (405, 1),
        (422, 1),
        (500, 1),
        (502, 1),
    ],
)
def test_a_refusal_is_one_line_and_an_exit_code(
    daemon: RecordingDaemon, kheish: CommandLine, status: int, code: int
) -> None:
    daemon.answers["GET /v1/runs/x"] = problem(status, "the_code", "what is wrong")
    result = kheish("runs", "get", "x")
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr == f"error: HTTP {status} (the_code): what is wrong\n"
    assert len(daemon.asked) == 1


def test_the_text_of_an_error_cannot_command_the_terminal(daemon: RecordingDaemon, kheish: CommandLine) -> None:
    daemon.answers["GET /v1/runs/x"] = problem(404, "c", "\x1b]0;owned\x07\r\x9b2J")
    assert not {"\x1b", "\x07", "\r", "\x9b"} & set(kheish("runs", "get", "x").stderr)


def test_an_unreachable_daemon_ends_with_3_at_once(kheish: CommandLine) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        for words in (["status"], ["runs", "watch", "run-1"], ["events", "stream"], ["sessions", "chat", "demo"]):
            result = kheish(*words, KHEISH_DAEMON_URL=url)
            assert (result.exit_code, result.stdout) == (3, "")
            assert result.stderr.startswith("error: no connection")


def test_a_daemon_that_does_not_answer_ends_with_7(kheish: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon_client, "REQUEST_TIMEOUT_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert kheish("status", KHEISH_DAEMON_URL=url).exit_code == 7


@pytest.mark.parametrize("body", [b"{", b"\xff", b'{"a": NaN'])
def test_an_answer_that_is_no_json_ends_with_8(daemon: RecordingDaemon, kheish: CommandLine, body: bytes) -> None:
    daemon.answers["GET /v1/status"] = (200, body)
    assert kheish("status").exit_code == 8


@pytest.mark.parametrize("answer", [[], "text", None, {"events": {"tail_event_id_cursor": "x"}}])
def test_an_answer_of_another_shape_ends_with_8(daemon: RecordingDaemon, kheish: CommandLine, answer: object) -> None:
    daemon.answers["GET /v1/status"] = (200, answer)
    assert kheish("events", "stream").exit_code == 8


def test_a_connection_that_breaks_in_the_middle_ends_with_3(kheish: CommandLine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def half_an_answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{")

        threading.Thread(target=half_an_answer, daemon=True).start()
        assert kheish("status", KHEISH_DAEMON_URL=f"http://127.0.0.1:{server.getsockname()[1]}").exit_code == 3


@pytest.mark.parametrize("url", ["ftp://x", "http://user:pw@x", "nonsense", "http://x:99999"])
def test_an_unusable_address_ends_with_1_and_shows_no_password(kheish: CommandLine, url: str) -> None:
    result = kheish("status", "--base-url", url)
    assert result.exit_code == 1
    assert "pw" not in result.stderr


@pytest.mark.parametrize(
    ("session_id", "path"),
    [
        ("a/b", "/v1/sessions/a%2Fb"),
        ("x%2Fevents", "/v1/sessions/x%252Fevents"),
        ("..", "/v1/sessions/%2E%2E"),
        ("?&=#", "/v1/sessions/%3F%26%3D%23"),
        ("ü ñ", "/v1/sessions/%C3%BC%20%C3%B1"),
    ],
)
def test_an_id_is_one_segment_whatever_it_holds(
    daemon: RecordingDaemon, kheish: CommandLine, session_id: str, path: str
) -> None:
    assert path_of("sessions", session_id) == path
    kheish("sessions", "get", session_id)
    assert daemon.requests() == [("GET", path)]
