"""Server-sent events, from bytes in arbitrary pieces to whole frames."""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_FRAME_BYTES = 16 * 1024 * 1024
"""A final event repeats the whole reply, so frames are large; a line without an end must not eat the memory."""

_MARK = b"\xef\xbb\xbf"
"""A byte order mark, which may begin the stream."""
_LINE_END = re.compile(rb"\r\n|\n|\r")


class FrameTooLarge(Exception):
    """One frame exceeds the bound."""


class Frame(NamedTuple):
    """One event; the data is kept as bytes, since only whole frames are decoded. One is made for every token."""

    event: str
    data: bytes


class FrameDecoder:
    """Incremental: any split of the same bytes gives the same frames. Comments and unknown fields are skipped."""

    def __init__(self, max_bytes: int = MAX_FRAME_BYTES) -> None:
        self._max_bytes = max_bytes
        self._pieces: list[bytes] = []
        self._pending = 0
        self._skip_newline = False
        self._first = True
        self._event = ""
        self._data: list[bytes] = []
        self._data_bytes = 0

    def feed(self, chunk: bytes) -> list[Frame]:
        """Return the frames that ``chunk`` completes.

        Raises:
            FrameTooLarge: a frame grew over the bound.
        """
        if self._skip_newline and chunk:
            self._skip_newline = False
            chunk = chunk.removeprefix(b"\n")
        has_return = b"\r" in chunk
        if not has_return and b"\n" not in chunk:
            self._keep(chunk)
            return []
        text = b"".join((*self._pieces, chunk))
        self._pieces.clear()
        self._pending = 0
        # A return at the very end closes its line now; the newline that may follow belongs to it.
        self._skip_newline = text.endswith(b"\r")
        lines = _LINE_END.split(text) if has_return else text.split(b"\n")
        self._keep(lines.pop())
        if self._first:
            self._first = False
            lines[0] = lines[0].removeprefix(_MARK)
        frames: list[Frame] = []
        for line in lines:
            if line:
                self._field(line)
            elif self._data:
                frames.append(self._end())
            else:
                self._event = ""
        return frames

    def flush(self) -> Frame | None:
        """Return the frame left when the stream ended without the empty line that closes it."""
        line = b"".join(self._pieces)
        self._pieces.clear()
        if self._first:
            line = line.removeprefix(_MARK)
        if line:
            self._field(line)
        return self._end() if self._data else None

    def _keep(self, piece: bytes) -> None:
        if piece:
            self._pieces.append(piece)
            self._pending += len(piece)
            if self._pending + self._data_bytes > self._max_bytes:
                raise FrameTooLarge

    def _end(self) -> Frame:
        frame = Frame(self._event, b"\n".join(self._data))
        self._event, self._data, self._data_bytes = "", [], 0
        return frame

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._data_bytes += len(value)
            if self._data_bytes > self._max_bytes:
                raise FrameTooLarge
        elif name == b"event":
            self._event = value.decode("utf-8", "replace")
