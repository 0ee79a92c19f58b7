"""Event streams over real sockets: order, cursors, restarts, scopes, gaps, slow readers."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.e2e.daemon_process import DEADLINE_S, Daemon
from tests.fakes.model_server import Answer, ModelServer

pytestmark = pytest.mark.e2e

Served = Callable[..., tuple[Daemon, ModelServer]]
Frames = Iterator[dict[str, str]]


def until_over(frames: Frames, run_id: str) -> list[dict[str, str]]:
    """Read up to and with the `run_updated` that shows the run terminal."""
    found = []
    for frame in frames:
        found.append(frame)
        if frame["event"] == "run_updated":
            run = json.loads(frame["data"])["run"]
            if run["run_id"] == run_id and "finished_at_ms" in run:
                return found
    raise AssertionError("the stream ended early")


def statuses(frames: list[dict[str, str]]) -> list[str]:
    return [json.loads(frame["data"])["run"]["status"] for frame in frames if frame["event"] == "run_updated"]


def ids(frames: list[dict[str, str]]) -> list[int]:
    return [int(frame["id"]) for frame in frames if "id" in frame]


def test_a_watcher_sees_the_run_queued_running_and_completed_with_increasing_ids(daemon: Daemon) -> None:
    session = daemon.session()
    with daemon.stream("/v1/events/stream") as frames:
        run_id = daemon.submit(session)
        seen = until_over(frames, run_id)

    assert statuses(seen) == ["queued", "running", "completed"]
    assert ids(seen) == sorted(set(ids(seen)))
    assert all(json.loads(frame["data"])["type"] == frame["event"] for frame in seen)


def test_text_arrives_in_deltas_without_ids_before_the_output(daemon: Daemon) -> None:
    session = daemon.session()
    with daemon.stream(f"/v1/sessions/{session}/stream") as frames:
        run_id = daemon.submit(session, "hello")
        seen = until_over(frames, run_id)

    deltas = [frame for frame in seen if frame["event"] == "output_delta"]
    assert "".join(json.loads(frame["data"])["text"] for frame in deltas) == "echo: hello"
    assert all("id" not in frame for frame in deltas)
    assert [frame["event"] for frame in seen].index("output") > seen.index(deltas[-1])


def test_last_event_id_gives_only_later_events_and_the_larger_cursor_wins(daemon: Daemon) -> None:
    session = daemon.session()
    run_id = daemon.submit(session)
    daemon.wait(run_id)
    with daemon.stream("/v1/events/stream?cursor=0") as frames:
        everything = ids(until_over(frames, run_id))
    middle, later = everything[1], everything[2]
    with daemon.stream("/v1/events/stream", headers={"Last-Event-ID": str(middle)}) as frames:
        assert ids(until_over(frames, run_id)) == [one for one in everything if one > middle]
    with daemon.stream(f"/v1/events/stream?cursor={later}", headers={"Last-Event-ID": str(middle)}) as frames:
        assert ids(until_over(frames, run_id)) == [one for one in everything if one > later]


def test_a_cursor_that_is_no_number_is_refused(daemon: Daemon) -> None:
    problem = daemon.call("GET", "/v1/events/stream?cursor=abc", status=400)

    assert (problem["domain"], problem["code"]) == ("events", "invalid_event_cursor")


def test_a_cursor_survives_a_restart_without_a_gap(daemon: Daemon) -> None:
    session = daemon.session()
    first = daemon.submit(session)
    daemon.wait(first)
    with daemon.stream("/v1/events/stream?cursor=0") as frames:
        before = ids(until_over(frames, first))
    daemon.restart()
    second = daemon.submit(session)
    with daemon.stream(f"/v1/events/stream?cursor={before[-2]}") as frames:
        after = until_over(frames, second)

    assert "stream_gap" not in [frame["event"] for frame in after]
    assert ids(after)[0] == before[-1]
    assert ids(after)[1] > before[-1]


def test_a_full_window_gives_a_gap_with_the_exact_number_then_what_is_retained(served: Served) -> None:
    daemon, _ = served(Answer(text="x"), arguments=("--event-history-capacity", "4"))
    session = daemon.session()
    for _ in range(4):
        daemon.wait(daemon.submit(session))
    tail = int(daemon.call("GET", "/v1/status")["events"]["tail_event_id_cursor"])
    assert tail >= 20
    with daemon.stream("/v1/events/stream?cursor=1") as frames:
        gap = next(frames)
        retained = [int(next(frames)["id"]) for _ in range(4)]

    body = json.loads(gap["data"])
    assert (gap["event"], body["reason"], body["skipped"]) == ("stream_gap", "replay_window", tail - 4 - 1)
    assert retained == list(range(tail - 3, tail + 1))


def test_a_session_stream_is_only_about_its_session_and_a_run_stream_shows_no_session_events(daemon: Daemon) -> None:
    mine, other = daemon.session("mine"), daemon.session("other")
    with (
        daemon.stream(f"/v1/sessions/{mine}/stream") as session_frames,
        daemon.stream("/v1/events/stream") as all_frames,
    ):
        noise = daemon.submit(other)
        until_over(all_frames, noise)
        run_id = daemon.submit(mine)
        seen = until_over(session_frames, run_id)
    with daemon.stream(f"/v1/runs/{run_id}/stream?cursor=0") as frames:
        of_run = until_over(frames, run_id)

    assert noise not in "".join(frame["data"] for frame in seen)
    assert "session_state_changed" in {frame["event"] for frame in seen}
    assert {frame["event"] for frame in of_run} <= {"run_updated", "trace", "output"}


def test_streams_of_unknown_sessions_and_runs_are_404(daemon: Daemon) -> None:
    assert daemon.call("GET", "/v1/sessions/nope/stream", status=404)["code"] == "session_not_found"
    assert daemon.call("GET", "/v1/runs/nope/stream", status=404)["code"] == "run_not_found"


@pytest.mark.timeout(60)
def test_an_idle_stream_has_a_heartbeat_without_an_id_within_eleven_seconds(daemon: Daemon) -> None:
    with daemon.stream("/v1/events/stream") as frames:
        frame = next(frames)

    assert frame == {"event": "heartbeat", "data": '{"type":"heartbeat"}'}


@pytest.mark.timeout(120)
def test_a_reader_that_stops_reading_gets_a_live_lag_gap_and_disturbs_nobody(served: Served) -> None:
    daemon, _ = served(Answer(text="x" * 400_000, pieces=200))
    session = daemon.session()
    slow = stalled_reader(daemon, "/v1/events/stream")
    with daemon.stream("/v1/events/stream") as frames:
        for number in range(30):
            seen = until_over(frames, daemon.submit(session, f"run {number}"))
            assert "stream_gap" not in [frame["event"] for frame in seen]

    slow.settimeout(DEADLINE_S)
    received = b""
    while b"live_lag" not in received:
        chunk = slow.recv(1 << 20)
        assert chunk, "the stream ended without a word about the gap"
        received = received[-64:] + chunk
    slow.close()
    assert int(daemon.call("GET", "/v1/status")["events"]["stream_lagged_event_count"]) > 0


def stalled_reader(daemon: Daemon, path: str) -> socket.socket:
    """Open a stream on a socket with a small window and read nothing."""
    address: Any = urlsplit(daemon.url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((address.hostname, address.port))
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode())
    assert connection.recv(16).startswith(b"HTTP/1.1 200")
    return connection
