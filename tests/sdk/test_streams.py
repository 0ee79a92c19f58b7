"""Streams: taken up again after a cut, honest about gaps, ended when the run is."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from kheish import BadRequest, ConnectionFailed, Event, NotFound, StreamBroken, UnexpectedResponse
from tests.sdk.conftest import ClientFactory, ServerFactory
from tests.sdk.wire_server import (
    DEADLINE_SECONDS,
    Asked,
    Behaviour,
    Breaks,
    Says,
    Streams,
    frame,
    output_json,
    problem,
    run_json,
)

pytestmark = pytest.mark.anyio

HEARTBEAT = frame({"type": "heartbeat"})


def updated(status: str, event_id: int | None = None) -> bytes:
    return frame({"type": "run_updated", "run": run_json(status)}, event_id)


def delta(text: str, turn: int = 1) -> bytes:
    return frame({"type": "output_delta", "run_id": "run-1", "turn": turn, "attempt": 1, "part": 0, "text": text})


def output(text: str, event_id: int) -> bytes:
    return frame({"type": "output", "output": output_json(text)}, event_id)


async def test_a_run_is_streamed_from_its_beginning_to_its_end(serve: ServerFactory, connect: ClientFactory) -> None:
    pieces = [updated("queued", 3), updated("running", 4), HEARTBEAT, output("hi", 5), updated("completed", 6)]

    def respond(asked: Asked) -> Behaviour:
        return Streams(pieces=pieces, then="hold") if asked.path.endswith("/stream") else Says(body=run_json())

    server = serve(respond)
    events = [event async for event in connect(server).runs.stream("run-1")]
    assert [(event.type, event.id) for event in events] == [
        ("run_updated", 3),
        ("run_updated", 4),
        ("output", 5),
        ("run_updated", 6),
    ]
    assert events[2].text == "hi"
    assert server.asked[0].path == "/v1/runs/run-1/stream"
    assert server.asked[0].params == {"cursor": "0"}
    assert server.asked[0].headers["accept"] == "text/event-stream"


@pytest.mark.parametrize("then", ["end", "break"])
async def test_a_cut_stream_goes_on_after_the_last_event_it_had(
    serve: ServerFactory, connect: ClientFactory, then: str
) -> None:
    connections: list[Behaviour] = [
        Streams(pieces=[updated("queued", 3), delta("no id"), frame({"type": "trace"}, 7)[:-5]], then=then),
        problem(503, "daemon_draining"),
        Breaks(),
        Streams(pieces=[frame({"type": "trace"}, 7), updated("completed", 8)], then="hold"),
    ]
    server = serve(lambda asked: connections[asked.number])
    events = [event async for event in connect(server).runs.stream("run-1")]
    assert [event.id for event in events] == [3, None, 7, 8]
    assert [asked.headers.get("last-event-id") for asked in server.asked] == [None, "3", "3", "3"]


async def test_before_the_first_event_a_stream_is_taken_up_where_the_caller_said(
    serve: ServerFactory, connect: ClientFactory
) -> None:
    connections: list[Behaviour] = [Breaks(), Streams(pieces=[updated("completed", 18)], then="hold")]
    server = serve(lambda asked: connections[asked.number])
    events = [event async for event in connect(server).runs.stream("run-1", cursor=17)]
    assert [event.id for event in events] == [18]
    positions = [(asked.params.get("cursor"), asked.headers.get("last-event-id")) for asked in server.asked]
    assert positions == [("17", None), (None, "17")]


async def test_a_gap_is_handed_on_and_followed_by_the_run_as_it_is(
    serve: ServerFactory, connect: ClientFactory
) -> None:
    gap = frame({"type": "stream_gap", "skipped": 4, "reason": "replay_window", "scope": "run"}, 40)

    def respond(asked: Asked) -> Behaviour:
        if asked.path.endswith("/stream"):
            return Streams(pieces=[gap], then="hold")
        return Says(body=run_json("completed", outputs=[output_json("hi")]))

    events = [event async for event in connect(serve(respond)).runs.stream("run-1")]
    assert [event.type for event in events] == ["stream_gap", "run_updated"]
    assert events[0].data["reason"] == "replay_window"
    assert events[1].run is not None
    assert events[1].run.status == "completed"


async def test_a_silent_stream_of_a_run_that_is_over_ends_at_a_heartbeat(
    serve: ServerFactory, connect: ClientFactory
) -> None:
    def respond(asked: Asked) -> Behaviour:
        if asked.path.endswith("/stream"):
            return Streams(pieces=[HEARTBEAT], then="hold")
        return Says(body=run_json("completed"))

    server = serve(respond)
    assert [event async for event in connect(server).runs.stream("run-1", cursor=900)] == []
    assert [asked.path for asked in server.asked] == ["/v1/runs/run-1/stream", "/v1/runs/run-1"]


async def test_a_new_stream_without_a_position_says_that_it_may_have_missed_something(
    serve: ServerFactory, connect: ClientFactory
) -> None:
    connections: list[Behaviour] = [
        Streams(pieces=[b": open\n\n"]),
        Streams(pieces=[b": open\n\n", frame({"type": "interrupted"}, 9)], then="hold"),
    ]
    server = serve(lambda asked: connections[asked.number])
    stream = connect(server).events.stream(session_id="demo")
    gap, event = await anext(stream), await anext(stream)
    await stream.aclose()
    assert (gap.type, gap.id, gap.data["reason"], gap.data["scope"]) == ("stream_gap", None, "reconnected", "session")
    assert event.id == 9
    assert [asked.params for asked in server.asked] == [{"session_id": "demo"}] * 2


async def test_events_arrive_as_they_are_sent(serve: ServerFactory, connect: ClientFactory) -> None:
    seen = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b": open\n\n" + frame({"type": "interrupted"}, 1)
        assert seen.wait(DEADLINE_SECONDS)
        yield frame({"type": "interrupted"}, 2)

    stream = connect(serve(lambda asked: Streams(pieces=pieces(), then="hold"))).sessions.stream("demo", cursor=0)
    first = await anext(stream)
    seen.set()
    second = await anext(stream)
    await stream.aclose()
    assert [first.id, second.id] == [1, 2]


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (problem(404, "run_not_found", domain="runs"), NotFound),
        (problem(400, "invalid_event_cursor", domain="events"), BadRequest),
        (Says(body={}), UnexpectedResponse),
        (Streams(media_type="text/html"), UnexpectedResponse),
    ],
)
async def test_a_stream_that_is_refused_is_not_asked_for_again(
    serve: ServerFactory, connect: ClientFactory, refusal: Behaviour, kind: type[Exception]
) -> None:
    server = serve(lambda asked: refusal)
    with pytest.raises(kind):
        await anext(connect(server).runs.stream("run-1"))
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "piece", [b"data: " + b"x" * (1024 * 1024 + 1), b"data: {\n\n", b"data: [1]\n\n", b"event: " + b"y" * 1024 * 1024]
)
async def test_what_is_no_event_breaks_the_stream(serve: ServerFactory, connect: ClientFactory, piece: bytes) -> None:
    server = serve(lambda asked: Streams(pieces=[piece], then="hold"))
    with pytest.raises(StreamBroken):
        await anext(connect(server).events.stream())
    assert len(server.asked) == 1


@pytest.mark.parametrize(("behaviour", "kind"), [(Breaks(), ConnectionFailed), (Streams(), StreamBroken)])
async def test_a_stream_that_never_works_ends_in_an_error_after_the_grace(
    serve: ServerFactory, connect: ClientFactory, behaviour: Behaviour, kind: type[Exception]
) -> None:
    client = connect(serve(lambda asked: behaviour), grace=0.3)
    with pytest.raises(kind):
        await anext(client.events.stream(cursor=0))


async def test_who_watches_is_told_of_each_connection_before_its_first_event(
    serve: ServerFactory, connect: ClientFactory
) -> None:
    def respond(asked: Asked) -> Behaviour:
        again = "last-event-id" in asked.headers
        return Streams(pieces=[updated("running", 5 if again else 4)], then="hold" if again else "end")

    told: list[str] = []
    stream = connect(serve(respond)).sessions.stream("demo", cursor=0, opened=lambda: told.append("stands"))
    assert told == []
    for _ in range(2):
        told.append(str((await anext(stream)).id))
    await stream.aclose()
    assert told == ["stands", "4", "stands", "5"]


def text_server(serve: ServerFactory, pieces: list[bytes], final: dict[str, Any]) -> Any:
    def respond(asked: Asked) -> Behaviour:
        return Streams(pieces=pieces, then="hold") if asked.path.endswith("/stream") else Says(body=final)

    return serve(respond)


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        ([delta("Hel"), delta("lo"), output("Hello", 5)], "Hello"),
        ([output("Hello", 5)], "Hello"),
        ([delta("Hel"), output("Hello", 5)], "Hello"),
        ([delta("lo"), output("Hello", 5)], "lo\nHello"),
        ([delta("Look", 1), delta("Do", 2), delta("ne", 2), output("Done", 5)], "Look\nDone"),
        ([delta("Hal"), frame({"type": "output_reset", "turn": 1, "attempt": 2}), delta("Hello")], "Hal\nHello"),
        ([delta("Hel")], "Hello"),
        ([], "Hello"),
    ],
)
async def test_the_text_is_whole_at_the_end_even_where_pieces_were_missed(
    serve: ServerFactory, connect: ClientFactory, pieces: list[bytes], text: str
) -> None:
    final = run_json("completed", outputs=[output_json("Hello")])
    server = text_server(serve, [*pieces, updated("completed", 6)], final)
    found = [piece async for piece in connect(server).runs.handle("run-1").stream_text()]
    assert "".join(found) == text
    assert all(found)


async def test_a_run_without_an_answer_has_no_more_text_than_it_streamed(
    serve: ServerFactory, connect: ClientFactory
) -> None:
    server = text_server(serve, [delta("Hel"), updated("failed", 6)], run_json("failed", error="x"))
    assert [piece async for piece in connect(server).runs.handle("run-1").stream_text()] == ["Hel"]


async def test_leaving_a_stream_closes_its_connection(serve: ServerFactory, connect: ClientFactory) -> None:
    gone = threading.Event()

    def pieces() -> Iterator[bytes]:
        try:
            for number in range(1, 1_000_000):
                yield frame({"type": "trace", "fill": "x" * 4000}, number)
        finally:
            gone.set()

    stream = connect(serve(lambda asked: Streams(pieces=pieces()))).events.stream()
    assert isinstance(await anext(stream), Event)
    await stream.aclose()
    assert gone.wait(DEADLINE_SECONDS)
