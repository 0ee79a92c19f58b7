"""A cancelled call returns only when its effect has ended, however often it is cancelled."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from kheish.tools.limits import ToolRuntimeLimits
from kheish.tools.offload import Stop, off_loop, to_the_end
from kheish.tools.protocol import ToolCall, ToolContext
from kheish.tools.registry import ToolRegistry
from kheish.tools.runtime import BatchBudget, ToolRuntime
from kheish.tools.shell import Bash

pytestmark = pytest.mark.anyio

DEADLINE_S = 10.0
STUBBORN = "trap 'echo seen > terminated' TERM; echo $$ > p; mv p pid; while :; do sleep 0.02; done"


async def until_there(path: Path) -> None:
    """Wait for what the command writes; in a thread, so that the loop goes on."""

    def wait() -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not path.exists():
            assert time.monotonic() < deadline, f"{path.name} was not written"
            time.sleep(0.01)

    await asyncio.to_thread(wait)


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_command_cancelled_twice_is_gone_when_the_call_returns(context: ToolContext, root: Path) -> None:
    tools = ToolRuntime(ToolRegistry((Bash({"PATH": os.environ["PATH"], "HOME": "/nonexistent"}),)))
    prepared = await tools.prepare(ToolCall(id="c", name="bash", input={"command": STUBBORN}), context)
    call = asyncio.create_task(tools.execute(prepared, tools.descriptor("bash"), BatchBudget(ToolRuntimeLimits())))
    await until_there(root / "pid")  # the command began

    call.cancel()
    await until_there(root / "terminated")  # the command ignored SIGTERM and is being waited for
    call.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(call, DEADLINE_S)
    assert not runs(int((root / "pid").read_text()))


async def test_a_timeout_during_which_the_call_is_cancelled_stays_a_cancellation(
    context: ToolContext, root: Path
) -> None:
    tools = ToolRuntime(ToolRegistry((Bash({"PATH": os.environ["PATH"], "HOME": "/nonexistent"}),)))
    prepared = await tools.prepare(ToolCall(id="c", name="bash", input={"command": STUBBORN}), context)
    budget = BatchBudget(ToolRuntimeLimits(max_timeout_ms=1_000))
    call = asyncio.create_task(tools.execute(prepared, tools.descriptor("bash"), budget))
    await until_there(root / "terminated")  # the timeout is ending the command

    call.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(call, DEADLINE_S)
    assert not runs(int((root / "pid").read_text()))


async def test_what_must_end_gives_its_result_or_its_own_failure() -> None:
    async def work(outcome: int) -> int:
        await asyncio.sleep(0)
        if outcome < 0:
            raise ValueError("negative")
        return outcome

    assert await to_the_end(asyncio.create_task(work(3))) == 3
    with pytest.raises(ValueError, match="negative"):
        await to_the_end(asyncio.create_task(work(-1)))


async def test_work_in_a_thread_is_left_only_when_it_has_ended() -> None:
    began, ended = asyncio.Event(), False
    loop = asyncio.get_running_loop()

    def work(stop: Stop) -> None:
        nonlocal ended
        loop.call_soon_threadsafe(began.set)
        try:
            stop.pause(DEADLINE_S)
        finally:
            ended = True

    call = asyncio.create_task(off_loop(work))
    await began.wait()
    call.cancel()
    await asyncio.sleep(0)
    call.cancel()

    with pytest.raises(asyncio.CancelledError):
        await call
    assert ended
