"""Bytes to events: any chunking gives the same events."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheish.sdk.errors import StreamBroken
from kheish.sdk.sse import Decoder, Event

TEXTS = st.text(max_size=20)


def encoded(events: list[Event], ending: str) -> bytes:
    lines: list[str] = [": open", ""]
    for event in events:
        if event.id is not None:
            lines.append(f"id: {event.id}")
        lines += [
            f"event: {event.type}",
            *(f"data: {line}" for line in json.dumps(event.data, indent=1).split("\n")),
            "",
        ]
    return "".join(line + ending for line in lines).encode()


@given(
    events=st.lists(
        st.builds(
            Event,
            type=st.sampled_from(["trace", "output_delta", "later"]),
            id=st.none() | st.integers(0, 2**63),
            data=st.dictionaries(TEXTS, TEXTS, max_size=3),
        ),
        max_size=5,
    ),
    cuts=st.lists(st.integers(0, 500), max_size=12),
    ending=st.sampled_from(["\n", "\r\n"]),
)
def test_any_chunking_gives_the_same_events(events: list[Event], cuts: list[int], ending: str) -> None:
    data = encoded(events, ending)
    bounds = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    decoder = Decoder()
    found = [event for start, end in itertools.pairwise(bounds) for event in decoder.feed(data[start:end])]
    assert found == events


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_a_frame_larger_than_the_limit_is_refused_in_any_chunks(step: int) -> None:
    def feed(size: int) -> int:
        data = b'event: x\ndata: {"a":"' + b"y" * size + b'"}\n\n'
        decoder = Decoder(max_frame_bytes=100)
        return sum(len(list(decoder.feed(data[start : start + step]))) for start in range(0, len(data), step))

    assert feed(70) == 1
    with pytest.raises(StreamBroken):
        feed(101)


def test_many_frames_together_may_be_larger_than_the_limit() -> None:
    decoder = Decoder(max_frame_bytes=100)
    assert len(list(decoder.feed(b'data: {"type":"x"}\n\n' * 1000))) == 1000


def test_comments_without_end_are_no_frame() -> None:
    decoder = Decoder(max_frame_bytes=100)
    assert list(decoder.feed(b": still here\n" * 1000 + b"data: {}\n\n")) == [Event(type="message")]
