"""The owner of every long-lived task: named, restarted with backoff, visible in status, awaited on drain."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from kheish.core.jsonvalue import JsonObject

log = structlog.get_logger(__name__)

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0


@dataclass(slots=True)
class _Child:
    name: str
    task: asyncio.Task[None] | None = None
    restarts: int = 0
    last_error: str | None = None


class Supervisor:
    """Starts tasks and keeps them running until it is stopped."""

    def __init__(self) -> None:
        self._children: dict[str, _Child] = {}

    def start(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run ``work`` until it returns; run it again when it fails."""
        child = self._children[name] = _Child(name)
        child.task = asyncio.get_running_loop().create_task(_keep_running(child, work), name=f"supervised:{name}")

    async def stop(self) -> None:
        """Cancel every task and wait for its end."""
        tasks = [child.task for child in self._children.values() if child.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def status(self) -> list[JsonObject]:
        """One row per task."""
        return [
            {
                "name": child.name,
                "running": child.task is not None and not child.task.done(),
                "restarts": child.restarts,
                "last_error": child.last_error,
            }
            for child in self._children.values()
        ]


async def _keep_running(child: _Child, work: Callable[[], Awaitable[None]]) -> None:
    pause = _FIRST_PAUSE_S
    while True:
        try:
            await work()
        except Exception as error:  # boundary: one failing worker never takes the daemon down
            child.restarts += 1
            child.last_error = type(error).__name__
            log.exception("worker.failed", worker=child.name, restarts=child.restarts)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_S)
        else:
            return
