"""Conversations as they were last written to the wire: a turn writes what is new, not everything again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import orjson

from kheish.core.jsonvalue import JsonObject, encode
from kheish.core.messages import Message

_SHORT = 32
"""Messages; fewer are written anew, so that a session of a few turns keeps nothing here."""
_MAX_BYTES = 16 * 1024 * 1024
"""Of all conversations together; those that were written longest ago go first."""

Write = Callable[[Sequence[Message]], Sequence[JsonObject]]
"""From messages to the items of a request; every message for itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
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
        while self._bytes > _MAX_BYTES:
            _, oldest = self._recent.popitem(last=False)
            self._bytes -= len(oldest.items)


def _joined(*parts: bytes) -> bytes:
    return b",".join(part for part in parts if part)


def array(*parts: bytes) -> orjson.Fragment:
    """A JSON array of items that are written already; empty parts are none."""
    return orjson.Fragment(b"[" + _joined(*parts) + b"]")
