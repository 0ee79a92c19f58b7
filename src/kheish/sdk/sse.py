"""Server-sent events: bytes in, events out. No I/O."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kheish.sdk.errors import StreamBroken
from kheish.sdk.jsonvalue import JsonObject

if TYPE_CHECKING:
    from kheish.sdk.types import RunView

MAX_FRAME_BYTES = 1024 * 1024
MEDIA_TYPE = "text/event-stream"


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One event of a stream. Types that are not known yet come through as they are."""

    type: str
    id: int | None = None
    """Where a stream can be taken up again; None for events that are never repeated."""
    data: JsonObject = field(default_factory=dict)

    @property
    def run(self) -> RunView | None:
        """The run a `run_updated` event carries, without its outputs."""
        from kheish.sdk.types import RunView  # late: the types take long to import

        found = self.data.get("run")
        return RunView.from_json(found) if self.type == "run_updated" and found is not None else None

    @property
    def text(self) -> str | None:
        """The text of an `output_delta`, or of an `output` that is whole."""
        output = self.data.get("output")
        found = output.get("content") if isinstance(output, dict) else self.data.get("text")
        return found if isinstance(found, str) else None


class Decoder:
    """Cuts the bytes of one connection into events, whatever chunks they come in.

    Raises:
        StreamBroken: a frame is larger than the limit, or is no JSON object.
    """

    def __init__(self, max_frame_bytes: int = MAX_FRAME_BYTES) -> None:
        self._max = max_frame_bytes
        self._tail = b""
        self._data: list[bytes] = []
        self._type = ""
        self._id: int | None = None
        self._frame_bytes = 0

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """The events that are complete with ``chunk``."""
        *lines, self._tail = (self._tail + chunk).split(b"\n")
        for line in lines:
            event = self._line(line.removesuffix(b"\r"))
            if event is not None:
                yield event
        self._bound(len(self._tail))

    def _line(self, line: bytes) -> Event | None:
        if not line:
            return self._finished()
        if line.startswith(b":"):
            return None
        self._frame_bytes += len(line)
        self._bound(0)
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._type = value.decode(errors="replace")
        elif name == b"id" and value.isdigit():
            self._id = int(value[:20])
        return None

    def _finished(self) -> Event | None:
        data, self._data = self._data, []
        kind, self._type = self._type, ""
        event_id, self._id = self._id, None
        self._frame_bytes = 0
        if not data:
            return None
        try:
            value = json.loads(b"\n".join(data))
        except (ValueError, RecursionError):
            raise StreamBroken("the stream carried an event that is not JSON") from None
        if not isinstance(value, dict):
            raise StreamBroken("the stream carried an event that is not an object")
        return Event(type=kind or str(value.get("type", "message")), id=event_id, data=value)

    def _bound(self, more: int) -> None:
        if self._frame_bytes + more > self._max:
            raise StreamBroken(f"the stream carried an event of more than {self._max} bytes")
