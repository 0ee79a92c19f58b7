from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheish.providers.sse import Frame, FrameDecoder, FrameTooLarge


def decode(*chunks: bytes) -> list[Frame]:
    decoder = FrameDecoder()
    frames = [frame for chunk in chunks for frame in decoder.feed(chunk)]
    last = decoder.flush()
    return frames if last is None else [*frames, last]


@pytest.mark.parametrize(
    ("data", "frames"),
    [
        (b"data: x\n\n", [Frame("", b"x")]),
        (b"data:x\n\n", [Frame("", b"x")]),
        (b"data:  x\n\n", [Frame("", b" x")]),
        (b"event: e\ndata: 1\ndata: 2\n\n", [Frame("e", b"1\n2")]),
        (b"data\n\n", [Frame("", b"")]),
        (b"event: e\n\ndata: x\n\n", [Frame("", b"x")]),
        (b": comment\n\n: more\ndata: x\n\n", [Frame("", b"x")]),
        (b"id: 1\nretry: 2\nother: 3\nnothing\ndata: x\n\n", [Frame("", b"x")]),
        (b"data: a\r\n\r\ndata: b\r\rdata: c\n\n", [Frame("", b"a"), Frame("", b"b"), Frame("", b"c")]),
        (b"\xef\xbb\xbfdata: x\n\n", [Frame("", b"x")]),
        (b"data: no end", [Frame("", b"no end")]),
        (b"\n\n\n", []),
        (b"", []),
    ],
)
def test_frames(data: bytes, frames: list[Frame]) -> None:
    assert decode(data) == frames
    assert decode(*(data[at : at + 1] for at in range(len(data)))) == frames


@given(
    st.lists(st.sampled_from([b"data: x", b"data:", b": c", b"event: e", b"\n", b"\r\n", b"\r", "data: ä🌍".encode()])),
    st.lists(st.integers(min_value=1, max_value=9)),
)
def test_any_split_of_any_bytes_gives_the_same_frames(pieces: list[bytes], sizes: list[int]) -> None:
    data = b"".join(pieces)
    chunks, position = [], 0
    for size in sizes:
        chunks.append(data[position : position + size])
        position += size

    assert decode(*chunks, data[position:]) == decode(data)


def test_a_frame_over_the_bound_is_refused_as_a_long_line_and_as_many_lines() -> None:
    with pytest.raises(FrameTooLarge):
        FrameDecoder(100).feed(b"data: " + b"x" * 100)
    with pytest.raises(FrameTooLarge):
        FrameDecoder(100).feed(b"data: 0123456789\n" * 20)
    assert len(FrameDecoder(100).feed(b"data: 0123456789\n\n" * 20)) == 20
