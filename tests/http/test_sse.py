"""How a stream lives and ends, without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import pytest

from kheish.http import sse
from kheish.http.sse import Event, InvalidEventCursor, Streams, event_cursor
from kheish.store.events import FeedEvent

pytestmark = pytest.mark.anyio


@dataclass(frozen=True)
class Note:
    frame: bytes


class Source:
    """A source that a test fills."""

    def __init__(self) -> None:
        self.notes: asyncio.Queue[tuple[Event, ...] | None] = asyncio.Queue()
        self.left = asyncio.Event()

    async def __aenter__(self) -> Source:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.left.set()

    def __aiter__(self) -> Source:
        return self

    async def __anext__(self) -> tuple[Event, ...]:
        batch = await self.notes.get()
        if batch is None:
            raise StopAsyncIteration
        return batch

    def nudge(self) -> None:
        self.notes.put_nowait(())

    def close(self) -> None:
        self.notes.put_nowait(None)


class Client:
    """The other side of a response."""

    def __init__(self) -> None:
        self.leaves = asyncio.Event()
        self.chunks: asyncio.Queue[bytes] = asyncio.Queue()
        self.headers: dict[bytes, bytes] = {}
        self.ended = False

    async def receive(self) -> MutableMapping[str, Any]:
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.headers = dict(message["headers"])
        elif message["body"]:
            await self.chunks.put(message["body"])
        else:
            self.ended = not message["more_body"]

    async def next(self) -> bytes:
        async with asyncio.timeout(5):
            return await self.chunks.get()


def watch(streams: Streams, source: Source, client: Client) -> asyncio.Task[None]:
    return asyncio.create_task(streams.respond(source)({"type": "http"}, client.receive, client.send))


async def test_a_batch_is_written_at_once_and_the_stream_ends_when_the_streams_are_closed() -> None:
    streams, source, client = Streams(), Source(), Client()
    answer = watch(streams, source, client)
    await client.next()
    source.notes.put_nowait((Note(b"one\n\n"),))
    source.notes.put_nowait((Note(b"two\n\n"), Note(b"three\n\n")))

    assert await client.next() == b"one\n\n"
    assert await client.next() == b"two\n\nthree\n\n"
    streams.close()
    async with asyncio.timeout(5):
        await answer
    assert client.ended
    assert source.left.is_set()
    assert client.headers[b"content-type"].startswith(b"text/event-stream")
    assert b"content-length" not in client.headers


async def test_a_stream_opened_while_closing_ends_at_once() -> None:
    streams, source, client = Streams(), Source(), Client()
    streams.close()
    async with asyncio.timeout(5):
        await watch(streams, source, client)

    assert client.ended


async def test_a_client_that_leaves_ends_the_watch() -> None:
    source, client = Source(), Client()
    answer = watch(Streams(), source, client)
    await client.next()
    client.leaves.set()
    async with asyncio.timeout(5):
        await answer

    assert source.left.is_set()
    assert not client.ended


async def test_silence_is_broken_by_a_heartbeat_without_an_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "HEARTBEAT_SECONDS", 0.01)
    source, client = Source(), Client()
    answer = watch(Streams(), source, client)
    await client.next()

    for _ in range(2):
        assert await client.next() == b'event: heartbeat\ndata: {"type":"heartbeat"}\n\n'
    source.close()
    await answer


async def test_many_watchers_are_sent_the_very_same_bytes() -> None:
    event = FeedEvent(id=7, type="output", session_id="s", run_id="r", data=b'{"a":1}')
    sources, clients = [Source() for _ in range(3)], [Client() for _ in range(3)]
    answers = [watch(Streams(), source, client) for source, client in zip(sources, clients, strict=True)]
    for source, client in zip(sources, clients, strict=True):
        await client.next()
        source.notes.put_nowait((event,))
    sent = [await client.next() for client in clients]
    for source in sources:
        source.close()
    await asyncio.gather(*answers)

    assert sent[0] == b'id: 7\nevent: output\ndata: {"a":1}\n\n'
    assert all(body is event.frame for body in sent)


async def test_a_source_that_breaks_is_reported_and_left() -> None:
    class Broken(Source):
        async def __anext__(self) -> tuple[Event, ...]:
            raise RuntimeError("broken")

    source = Broken()
    with pytest.raises(RuntimeError, match="broken"):
        await watch(Streams(), source, Client())

    assert source.left.is_set()


@pytest.mark.parametrize(
    ("query", "header", "cursor"),
    [(None, None, None), ("", " ", None), ("5", None, 5), (" 5 ", "7", 7), ("9", "7", 9), ("9" * 40, None, 2**63 - 1)],
)
async def test_the_larger_cursor_counts(query: str | None, header: str | None, cursor: int | None) -> None:
    assert event_cursor(query, header) == cursor


@pytest.mark.parametrize("text", ["abc", "-1", "1.5", "٣", "1e3"])
async def test_a_cursor_that_is_no_id_is_refused(text: str) -> None:
    for arguments in ((text, None), (None, text)):
        with pytest.raises(InvalidEventCursor):
            event_cursor(*arguments)
