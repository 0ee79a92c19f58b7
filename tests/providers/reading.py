"""Feeding bytes to a decoder in every way they can arrive, and to the official clients."""

from __future__ import annotations

import json
import os
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from kheish.core.messages import OpaquePart, TextPart, ToolCallPart
from kheish.providers.protocol import ModelReply, TextDelta
from kheish.providers.reply_reader import ReplyReader, WireDecoder

ROOT = Path(__file__).parents[2]
RECORDINGS = Path(os.environ.get("KHEISH_RECORDINGS") or ROOT.parent / "shared" / "recordings")


def read(decoder: WireDecoder, chunks: Sequence[bytes]) -> tuple[list[TextDelta], ModelReply]:
    """Run a whole reply through the reader, as the transport does. Deltas come as if all had arrived at once."""
    reader = ReplyReader(decoder)
    deltas: list[TextDelta] = []
    for chunk in chunks:
        if reader.finished:
            break
        deltas += reader.feed(chunk)
    late, reply = reader.finish()
    return joined(deltas + late), reply


def joined(deltas: Sequence[TextDelta]) -> list[TextDelta]:
    """Neighbours of the same part as one: how they are cut depends on how the bytes arrive."""
    made: list[TextDelta] = []
    for delta in deltas:
        if made and made[-1].part == delta.part:
            made[-1] = TextDelta(text=made[-1].text + delta.text, part=delta.part)
        else:
            made.append(delta)
    return made


def random_chunks(data: bytes, seed: int) -> list[bytes]:
    """Cut bytes at random places, single bytes included."""
    dice = random.Random(seed)
    chunks, position = [], 0
    while position < len(data):
        size = dice.choice((1, 2, 3, 7, 40, 300, 5000))
        chunks.append(data[position : position + size])
        position += size
    return chunks


def every_split(data: bytes) -> Iterator[list[bytes]]:
    """Cut bytes in two, at every place."""
    for position in range(1, len(data)):
        yield [data[:position], data[position:]]


def text(reply: ModelReply) -> str:
    return "".join(part.text for part in reply.parts if isinstance(part, TextPart))


def calls(reply: ModelReply) -> list[tuple[str, dict[str, Any], str | None]]:
    return [(part.name, part.input, part.provider_call_id) for part in reply.parts if isinstance(part, ToolCallPart)]


def opaque(reply: ModelReply) -> list[Any]:
    return [part.data for part in reply.parts if isinstance(part, OpaquePart)]


@dataclass(frozen=True)
class Recording:
    name: str
    uri: str
    request: Any
    body: bytes


def recordings(folder: str, path_end: str) -> list[Any]:
    """Return the exchanges with one endpoint as parameters; one that skips when the folder is not there."""
    if not RECORDINGS.is_dir():
        reason = f"no recorded provider traffic at {RECORDINGS}; set KHEISH_RECORDINGS"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason), id=f"{folder}-absent")]
    found = []
    for file in sorted((RECORDINGS / folder).glob("*.json")):
        for number, exchange in enumerate(json.loads(file.read_text())["interactions"]):
            response, uri = exchange["response"], exchange["request"]["uri"]
            if not uri.split("?")[0].endswith(path_end):
                continue
            body = response["body"] if isinstance(response["body"], str) else json.dumps(response["body"])
            recording = Recording(file.stem, uri, exchange["request"]["body"], body.encode())
            found.append(pytest.param(recording, id=f"{file.stem}-{number}"))
    assert found, f"{RECORDINGS / folder} holds nothing of {path_end}"
    return found


def client_replying(data: bytes, content_type: str = "text/event-stream") -> httpx2.AsyncClient:
    """Make an HTTP client that answers everything with these bytes, for the official clients."""

    class Body(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield data

    def reply(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": content_type}, stream=Body())

    return httpx2.AsyncClient(transport=httpx2.MockTransport(reply))


Made = Callable[[], WireDecoder]
