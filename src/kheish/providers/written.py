"""Requests as they were last written to the wire: a turn writes what is new, not everything again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import cast

import orjson

from kheish.core.jsonvalue import JsonObject, JsonValue, encode
from kheish.core.messages import Message
from kheish.core.values import value_class
from kheish.providers.protocol import ModelRequest
from kheish.providers.upstream_errors import unsendable

_SHORT = 8
"""Messages; fewer are written anew, so that a session of a few turns keeps nothing here."""
_MOST = 256
"""Conversations; those that were written longest ago go first. Each keeps its messages too, not only their bytes."""
_MAX_BYTES = 16 * 1024 * 1024
"""Of all of them together."""

Write = Callable[[Sequence[Message]], Sequence[JsonObject]]
"""From messages to the items of a request; every message for itself."""


@value_class(frozen=True, kw_only=True, slots=True)
class _Written:
    messages: tuple[Message, ...]
    items: bytes
    """As JSON, with commas between them."""


class WrittenConversations:
    """What is written of recent conversations. Only a hint: whatever is not the same as before is written anew."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._recent: OrderedDict[str, _Written] = OrderedDict()
        self._bytes = 0

    def items(self, key: str | None, messages: tuple[Message, ...]) -> bytes:
        """The items of ``messages`` as JSON, with commas between them. ``key`` names the conversation."""
        if key is None or len(messages) < _SHORT:
            return self._new(messages)
        known = self._recent.pop(key, None)
        self._bytes -= 0 if known is None else len(known.items)
        if known is not None and messages[: len(known.messages)] == known.messages:
            items = _joined(known.items, self._new(messages[len(known.messages) :]))
        else:
            items = self._new(messages)
        self._keep(key, _Written(messages=messages, items=items))
        return items

    def _new(self, messages: Sequence[Message]) -> bytes:
        return encode(self._write(messages))[1:-1]

    def _keep(self, key: str, written: _Written) -> None:
        self._recent[key] = written
        self._bytes += len(written.items)
        while len(self._recent) > _MOST or self._bytes > _MAX_BYTES:
            _, oldest = self._recent.popitem(last=False)
            self._bytes -= len(oldest.items)


def _joined(*parts: bytes) -> bytes:
    return b",".join(part for part in parts if part)


_HERE = cast("JsonValue", orjson.Fragment(b"\0"))
"""Where the items of a conversation come; text never holds this byte in JSON."""

Frame = Callable[[ModelRequest, list[JsonValue]], JsonObject]
"""From a request and the items of its conversation to its body."""


class WrittenRequests:
    """The bodies of one route's requests. What surrounds the conversation hardly ever changes: it is written once."""

    def __init__(self, provider: str, frame: Frame, items: Callable[[ModelRequest], bytes]) -> None:
        """``items`` writes a conversation as JSON, with commas between the items."""
        self._provider = provider
        self._frame = frame
        self._items = items
        self._known: ModelRequest | None = None
        self._before = self._after = b""

    def content(self, request: ModelRequest) -> bytes:
        """The body of a request.

        Raises:
            ProviderError: the wire cannot say what is asked for.
        """
        with suppress(TypeError, ValueError):
            return self._whole(request)
        # Outside the handler: those errors quote what they could not encode.
        raise unsendable(self._provider)

    def _whole(self, request: ModelRequest) -> bytes:
        items = self._items(request)
        if not items:
            return encode(self._frame(request, []))
        if not self._surrounds(request):
            self._before, self._after = encode(self._frame(request, [_HERE])).split(b"\0")
            self._known = replace(request, messages=(), before_send=None)
        return b"".join((self._before, items, self._after))

    def _surrounds(self, request: ModelRequest) -> bool:
        known = self._known
        return (
            known is not None
            and known.tools is request.tools
            and known.model == request.model
            and known.system == request.system
            and known.generation == request.generation
        )


def written_whole(provider: str, body: JsonObject) -> bytes:
    """A body that is another in every request.

    Raises:
        ProviderError: it is not JSON.
    """
    with suppress(TypeError, ValueError):
        return encode(body)
    raise unsendable(provider)
