"""Time limits of a model call."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable
from types import TracebackType
from typing import TypeVar

from kheish.core.values import value_class

T = TypeVar("T")


@value_class(frozen=True, kw_only=True, slots=True)
class Limits:
    """How long a model call may take, in seconds."""

    inactivity: float = 90.0
    """Without a single received byte; keep-alive comments count as bytes."""
    whole: float = 240.0
    """From sending to the end of the reply."""


class Patience:
    """Holds the waits of one call to both limits, with one timer: when it fires it looks whether anything came since.

    A timer for each wait would cost every token. Only a wait is cut off, never what its caller does in between.
    """

    def __init__(self, limits: Limits) -> None:
        self._loop = asyncio.get_running_loop()
        self._inactivity = limits.inactivity
        self._deadline = self._loop.time() + limits.whole
        self._waiting: asyncio.Task[object] | None = None
        self._limit = math.inf
        """Of the present wait."""
        self._timer: asyncio.TimerHandle | None = None
        self._fires = math.inf
        self._cut = False

    def __enter__(self) -> Patience:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()

    @property
    def exhausted(self) -> bool:
        """The limit of the whole call is reached."""
        return self._loop.time() >= self._deadline

    async def wait(self, coming: Awaitable[T]) -> T:
        """Wait for something to arrive.

        Raises:
            TimeoutError: a limit was reached first.
        """
        task = asyncio.current_task(self._loop)
        assert task is not None
        cancelling = task.cancelling()
        self._waiting = task
        self._limit = min(self._loop.time() + self._inactivity, self._deadline)
        if self._fires > self._limit:
            self._look_at(self._limit)
        try:
            return await coming
        except BaseException as error:
            # Our own cancellation is taken back; that of somebody else goes on.
            if self._cut and task.uncancel() <= cancelling and isinstance(error, asyncio.CancelledError):
                raise TimeoutError from None
            raise
        finally:
            self._waiting, self._cut = None, False

    def _look_at(self, moment: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._fires = self._loop.call_at(moment, self._look), moment

    def _look(self) -> None:
        self._fires = math.inf
        if self._waiting is None:
            return  # the next wait sets its own timer
        if self._loop.time() < self._limit:
            self._look_at(self._limit)
            return
        self._cut = True
        self._waiting.cancel()
