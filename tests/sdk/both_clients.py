"""Lets one test body speak to the synchronous and to the asynchronous client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio.to_thread

_ENDED = object()
_PLAIN = frozenset({"handle"})
"""Methods that send nothing."""


class Awaited:
    """The synchronous client with every method awaitable; each call runs on a thread."""

    def __init__(self, target: object) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if not callable(value):
            return _wrapped(value)
        if name in _PLAIN:
            return lambda *args, **kwargs: _wrapped(value(*args, **kwargs))
        if name in ("stream", "stream_text", "list"):
            return lambda *args, **kwargs: _AsyncIteration(value(*args, **kwargs))

        async def call(*args: Any, **kwargs: Any) -> Any:
            return _wrapped(await anyio.to_thread.run_sync(lambda: value(*args, **kwargs)))

        return call

    def __repr__(self) -> str:
        return repr(self._target)


class _AsyncIteration:
    def __init__(self, iterator: Iterator[Any]) -> None:
        self._iterator = iterator

    def __aiter__(self) -> AsyncIterator[Any]:
        return self  # type: ignore[return-value]  # it is one by its methods

    async def __anext__(self) -> Any:
        value = await anyio.to_thread.run_sync(lambda: next(self._iterator, _ENDED))
        if value is _ENDED:
            raise StopAsyncIteration
        return value

    async def aclose(self) -> None:
        await anyio.to_thread.run_sync(lambda: self._iterator.close())  # type: ignore[attr-defined]  # a generator


def _wrapped(value: object) -> Any:
    module = type(value).__module__
    return Awaited(value) if module in ("kheish.sdk.resources", "kheish.sdk.handles", "kheish.sdk.raw") else value
