"""Long-lived tasks have an owner."""

from __future__ import annotations

import asyncio

import pytest

from kheish.daemon import supervisor as module
from kheish.daemon.supervisor import Supervisor

pytestmark = pytest.mark.anyio


async def test_a_worker_that_fails_is_started_again_and_the_failure_is_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE_S", 0.001)
    working = asyncio.Event()
    attempts: list[int] = []

    async def work() -> None:
        attempts.append(1)
        if len(attempts) < 3:
            raise RuntimeError("hunter2")
        working.set()
        await asyncio.Event().wait()

    supervisor = Supervisor()
    supervisor.start("poller", work)
    async with asyncio.timeout(5):
        await working.wait()
    [row] = supervisor.status()
    await supervisor.stop()

    assert row == {"name": "poller", "running": True, "restarts": 2, "last_error": "RuntimeError"}
    assert supervisor.status()[0]["running"] is False


async def test_stopping_waits_until_a_worker_has_cleaned_up() -> None:
    began, cleaned = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    supervisor = Supervisor()
    supervisor.start("worker", work)
    await began.wait()
    await supervisor.stop()

    assert cleaned.is_set()
