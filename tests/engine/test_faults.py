"""One thing fails; everything else goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from kheish.core.problems import StoreUnavailable
from kheish.engine.entries import RunStatus
from kheish.engine.journal import MemoryJournal
from kheish.engine.ports import Also, Meanwhile, Proposal, Transition
from kheish.engine.state import SessionState
from kheish.policy.protocol import Verdict
from kheish.providers.protocol import ModelReply, ModelRequest
from tests.engine.world import (
    DEADLINE_S,
    SESSION,
    TablePermissions,
    World,
    call_reply,
    submission,
    text_reply,
    turns_so_far,
)

pytestmark = pytest.mark.anyio


def touch_then(text: str) -> Callable[[ModelRequest], ModelReply]:
    def model(request: ModelRequest) -> ModelReply:
        return call_reply(("touch", {"n": 1})) if turns_so_far(request.messages) == 0 else text_reply(text)

    return model


class FullDisk(MemoryJournal):
    """Refuses every write while it is full."""

    def __init__(self) -> None:
        super().__init__()
        self.full = False
        self.refused = asyncio.Event()

    async def append(
        self, transition: Transition, *, also: Also | None = None, meanwhile: Meanwhile | None = None
    ) -> None:
        if self.full:
            self.refused.set()
            raise StoreUnavailable("The store refused a write (disk full); nothing was changed.")
        await super().append(transition, also=also, meanwhile=meanwhile)


class BrokenPermissions(TablePermissions):
    def decide(self, tool_name: str, *, session_id: str | None) -> Verdict:
        raise KeyError("a bug in a rule")


async def test_a_bug_in_judging_fails_its_run_and_the_session_goes_on() -> None:
    world = World(touch_then("done"), permissions=BrokenPermissions())
    await world.submit(run_id="run-1")
    ended = await world.finish("run-1")

    assert ended.status is RunStatus.FAILED
    assert "KeyError" in str(ended.error)
    assert "a bug in a rule" not in str(ended.error)
    again = World(lambda request: text_reply("fine"), journal=world.journal, life="b")
    await again.submit(run_id="run-2")
    assert (await again.finish("run-2")).status is RunStatus.COMPLETED


async def test_a_bug_in_a_callers_rule_goes_back_to_the_caller_and_stops_no_tool() -> None:
    world = World(touch_then("done"))
    world.touch.hold = asyncio.Event()
    await world.submit()
    await asyncio.wait_for(world.touch.started.wait(), DEADLINE_S)

    def broken(state: SessionState, now_ms: int) -> Sequence[Proposal]:
        raise TypeError("a bug")

    with pytest.raises(TypeError):
        await world.engine.transition(SESSION, broken)
    world.touch.hold.set()
    assert (await world.finish()).status is RunStatus.COMPLETED
    assert len(world.touch.executions) == 1


async def test_while_the_store_refuses_writes_no_model_is_asked_again() -> None:
    journal = FullDisk()
    world = World(touch_then("done"), journal=journal)
    world.touch.hold = asyncio.Event()
    await world.submit()
    await asyncio.wait_for(world.touch.started.wait(), DEADLINE_S)
    journal.full = True
    world.touch.hold.set()
    await asyncio.wait_for(journal.refused.wait(), DEADLINE_S)
    for _ in range(3):
        await idle(world)
        journal.refused.clear()
        world.clock.value += 5_000
        world.engine.timers.fire_due()
        await asyncio.wait_for(journal.refused.wait(), DEADLINE_S)
    assert len(world.model.requests) == 1

    await idle(world)
    journal.full = False
    world.clock.value += 5_000
    world.engine.timers.fire_due()
    assert (await world.finish()).status is RunStatus.COMPLETED
    assert len(world.touch.executions) == 1
    assert len(world.model.requests) == 2


async def test_a_submission_the_store_refuses_leaves_no_run_and_does_not_stop_the_one_that_works() -> None:
    journal = FullDisk()
    world = World(touch_then("done"), journal=journal)
    world.touch.hold = asyncio.Event()
    await world.submit(run_id="run-1")
    await asyncio.wait_for(world.touch.started.wait(), DEADLINE_S)
    journal.full = True
    with pytest.raises(StoreUnavailable):
        await world.engine.transition(SESSION, submission("more", "run-2"))
    journal.full = False
    world.touch.hold.set()

    assert (await world.finish("run-1")).status is RunStatus.COMPLETED
    assert (await world.engine.state(SESSION)).run("run-2") is None


async def test_every_caller_gets_an_answer_while_a_worker_fails() -> None:
    journal = FullDisk()
    world = World(lambda request: text_reply("x"), journal=journal)
    journal.full = True
    asked = [asyncio.create_task(world.submit(run_id=f"run-{number}")) for number in range(20)]
    answers = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), DEADLINE_S)

    assert all(isinstance(answer, StoreUnavailable) for answer in answers)
    journal.full = False
    await world.submit(run_id="run-99")
    assert (await world.finish("run-99")).status is RunStatus.COMPLETED


async def idle(world: World) -> None:
    """Until no worker is left."""
    async with asyncio.timeout(DEADLINE_S):
        while world.engine.active_sessions:  # noqa: ASYNC110  # the engine tells nobody when a worker ends
            await asyncio.sleep(0)
