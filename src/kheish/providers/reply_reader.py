"""From the bytes of a provider's reply to deltas and the whole reply: a stream of events, or one JSON document."""

from __future__ import annotations

from itertools import groupby
from typing import Protocol

from kheish.core.jsonvalue import JsonObject
from kheish.core.messages import TextPart
from kheish.providers.protocol import ModelReply, TextDelta
from kheish.providers.sse import MAX_FRAME_BYTES, Frame, FrameDecoder, FrameTooLarge
from kheish.providers.upstream_errors import transport_error, upstream_error
from kheish.providers.wire import load

_WHITE_SPACE = b" \t\r\n"


class WireDecoder(Protocol):
    """One wire's understanding of its events. Holds the state of one reply; no I/O."""

    provider: str

    @property
    def complete(self) -> bool:
        """Whether the provider said why the reply ended: without that word a stream was cut short."""
        ...

    @property
    def finished(self) -> bool:
        """Whether nothing of interest can follow."""
        ...

    def event(self, event: JsonObject) -> list[TextDelta]:
        """Take one event; unknown ones are skipped.

        Raises:
            ProviderError: the provider reports an error.
        """
        ...

    def reply(self) -> ModelReply:
        """Return the reply put together from the events."""
        ...

    def whole(self, document: JsonObject) -> ModelReply | None:
        """Read a reply that came as one JSON document; None when it is not one."""
        ...


class ReplyReader:
    """Incremental and pure: any split of the same bytes gives the same reply."""

    def __init__(self, decoder: WireDecoder, *, max_bytes: int = MAX_FRAME_BYTES) -> None:
        self._decoder = decoder
        self._max_bytes = max_bytes
        self._frames = FrameDecoder(max_bytes)
        self._document: bytearray | None = None
        self._undecided = True
        self._done = False
        self._streamed = False

    @property
    def complete(self) -> bool:
        """Whether the reply can be used even if the connection fails now."""
        return self._document is None and self._decoder.complete

    @property
    def finished(self) -> bool:
        return self._done or self._decoder.finished

    def feed(self, chunk: bytes) -> list[TextDelta]:
        """Take the next bytes; texts of one part that arrived together are one delta.

        Raises:
            ProviderError: the provider reports an error, or what it sends cannot be read.
        """
        if self._undecided:
            chunk = chunk.lstrip(_WHITE_SPACE)
            if not chunk:
                return []
            self._undecided = False
            if chunk.startswith(b"{"):  # no line of an event stream begins like this
                self._document = bytearray()
        if self._document is not None:
            self._document += chunk
            if len(self._document) > self._max_bytes:
                raise self._unreadable("the reply is too large")
            return []
        try:
            frames = self._frames.feed(chunk)
        except FrameTooLarge:
            raise self._unreadable("an event is too large") from None
        deltas: list[TextDelta] = []
        try:
            for frame in frames:
                if self.finished:
                    break
                deltas += self._event(frame)
        except ValueError:
            raise self._unreadable("an event is not JSON") from None
        if not deltas:
            return deltas
        self._streamed = True
        return deltas if len(deltas) == 1 else _joined(deltas)

    def finish(self) -> tuple[list[TextDelta], ModelReply]:
        """End the reply. Returns its texts as deltas when none was streamed before.

        Raises:
            ProviderError: the provider reports an error, or the reply ended before its last word.
        """
        reply = self._read_document() if self._document is not None else self._end_of_stream()
        if self._streamed:
            return [], reply
        texts = [part.text for part in reply.parts if isinstance(part, TextPart)]
        return [TextDelta(text=text, part=number) for number, text in enumerate(texts)], reply

    def _end_of_stream(self) -> ModelReply:
        if not self.finished:
            last = self._frames.flush()
            try:
                if last is not None:
                    self._event(last)
            except ValueError:
                pass  # half an event: what was cut short is told apart below
        if not self._decoder.complete:
            raise transport_error(self._decoder.provider, "stream", "cut short before the end of the reply")
        return self._decoder.reply()

    def _read_document(self) -> ModelReply:
        assert self._document is not None
        try:
            document = load(bytes(self._document))
        except ValueError:
            raise transport_error(self._decoder.provider, "reply", "cut short or not JSON") from None
        assert isinstance(document, dict)
        if document.get("error"):
            raise upstream_error(self._decoder.provider, "reply", document)
        reply = self._decoder.whole(document)
        if reply is None:
            raise self._unreadable("it has no finished reply in it")
        return reply

    def _event(self, frame: Frame) -> list[TextDelta]:
        data = frame.data.strip()
        if not data:
            return []
        if data == b"[DONE]":
            self._done = True
            return []
        event = load(data)
        if not isinstance(event, dict):
            return []
        if frame.event and "type" not in event:
            event = {**event, "type": frame.event}
        return self._decoder.event(event)

    def _unreadable(self, reason: str) -> Exception:
        return transport_error(self._decoder.provider, "reply", f"unreadable: {reason}")


def _joined(deltas: list[TextDelta]) -> list[TextDelta]:
    """Who is late with reading catches up: what follows costs by the delta, not by the token."""
    parts = groupby(deltas, key=lambda delta: delta.part)
    return [TextDelta(text="".join(delta.text for delta in run), part=part) for part, run in parts]
