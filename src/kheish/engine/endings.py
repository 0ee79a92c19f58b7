"""Ends of answers whose reply is there already: nobody waits for them, but a connection is used again after its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from kheish.engine.model_calls import ModelCall

log = structlog.get_logger(__name__)

_END_S = 1.0
"""For what is behind a reply. Adapters need less; one that does not must hold up no session."""


class Endings:
    """Sees model calls to their end, when there is time for it."""

    def __init__(self, ended: Callable[[], None]) -> None:
        """``ended`` is called whenever one is."""
        self._ended = ended
        self._due: list[ModelCall] = []
        self._tasks: dict[asyncio.Task[None], asyncio.TimerHandle] = {}
        """With their deadlines."""

    @property
    def due(self) -> bool:
        """One has not begun."""
        return bool(self._due)

    @property
    def under_way(self) -> bool:
        return bool(self._tasks)

    def add(self, call: ModelCall) -> None:
        self._due.append(call)

    def begin(self) -> None:
        """Now is a good moment."""
        loop = asyncio.get_running_loop()
        for call in self._due:
            task = loop.create_task(call.aclose(), name=f"ending:{call.run.run_id}")
            self._tasks[task] = loop.call_later(_END_S, _cut_off, task, call.run.run_id)
            task.add_done_callback(self._over)
        self._due.clear()

    async def wait(self) -> None:
        """Return when there is none left."""
        self.begin()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def abandon(self) -> None:
        """Close them as they are; return when they are."""
        self.begin()
        if self._tasks:
            await asyncio.sleep(0)  # a task that is cancelled before its first step closes nothing
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task).cancel()
        self._ended()


def _cut_off(task: asyncio.Task[None], run_id: str) -> None:
    if not task.done():
        log.warning("model_call.end_did_not_come", run_id=run_id)
        task.cancel()
