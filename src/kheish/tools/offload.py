"""Blocking work in a thread that its caller never leaves behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from typing import TypeVar

T = TypeVar("T")


class Stopped(Exception):
    """The caller was cancelled while the work could still be dropped."""


class Stop:
    """Set when the caller is cancelled; long work looks at it wherever it may end without half an effect."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    def check(self) -> None:
        """Raise `Stopped` if the caller has gone."""
        if self._event.is_set():
            raise Stopped

    def pause(self, seconds: float) -> None:
        """Wait, or raise `Stopped` as soon as the caller has gone."""
        if self._event.wait(seconds):
            raise Stopped


async def off_loop(work: Callable[[Stop], T]) -> T:
    """Run ``work`` in a thread. When cancelled, ask it to stop and return only after it has ended."""
    stop = Stop()
    # As `asyncio.to_thread` does it, without a task around it.
    done = asyncio.get_running_loop().run_in_executor(None, copy_context().run, work, stop)
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        stop.set()
        while not done.done():
            # A second cancellation must not leave the thread writing on its own.
            with suppress(asyncio.CancelledError):
                await asyncio.wait((done,))
        if not done.cancelled():
            done.exception()
        raise


async def to_the_end(task: asyncio.Task[T]) -> T:
    """Give the task's result. When cancelled, however often, raise that only after the task has ended by itself."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return task.result()
    if not task.cancelled():
        task.exception()  # looked at, so that nobody reports it as lost
    raise cancelled
