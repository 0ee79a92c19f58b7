"""What one run, one entry or one caller may not do to the others."""

from __future__ import annotations

import asyncio

import pytest

from kheish.core.messages import FinishReason, Generation, Role
from kheish.engine import entries as e
from kheish.engine.entries import RunStatus
from kheish.engine.hands import Draining
from kheish.engine.journal import MemoryJournal
from kheish.engine.ports import Transition
from kheish.providers.protocol import ErrorKind, ModelReply, ModelRequest, ProviderError
from tests.engine.world import (
    DEADLINE_S,
    SESSION,
    World,
    call_reply,
    results,
    stop,
    text_reply,
    turns_so_far,
)

pytestmark = pytest.mark.anyio


def touch_then_done(request: ModelRequest) -> ModelReply:
    return call_reply(("touch", {"n": 1})) if turns_so_far(request.messages) == 0 else text_reply("done")


async def test_cancelling_a_queued_run_leaves_the_calls_of_the_active_one_open() -> None:
    world = World(touch_then_done)
    world.touch.hold = asyncio.Event()
    await world.submit(run_id="run-1")
    await asyncio.wait_for(world.touch.started.wait(), DEADLINE_S)
    await world.submit(run_id="run-2")
    await world.engine.transition(SESSION, stop("run-2"))
    world.touch.hold.set()
    assert (await world.finish("run-1")).status is RunStatus.COMPLETED

    (result,) = results(world.model.requests[-1].messages)
    assert (result.output, result.is_error, result.provider_call_id) == ({"did": {"n": 1}}, False, "same")


async def test_a_reply_that_no_row_can_hold_fails_its_run_and_the_next_one_works() -> None:
    def model(request: ModelRequest) -> ModelReply:
        return text_reply("half a pair: \ud800" if len(request.messages) == 1 else "fine")

    world = World(model)
    await world.submit(run_id="run-1")
    ended = await world.finish("run-1")

    assert ended.status is RunStatus.FAILED
    assert "internal error" in str(ended.error)
    await world.submit(run_id="run-2")
    assert (await world.finish("run-2")).output == "fine"


class NothingMayEnd(MemoryJournal):
    """A projection with a bug: no end of a run can be written."""

    async def append(self, transition: Transition, *, also: object = None, meanwhile: object = None) -> None:
        if any(isinstance(recorded.entry, e.RunEnded) for recorded in transition.entries):
            raise KeyError("a bug in a projection")
        await super().append(transition)


async def test_who_waits_for_a_run_that_cannot_end_gets_the_error_and_no_model_is_asked_again() -> None:
    world = World(lambda request: text_reply("x"), journal=NothingMayEnd())
    await world.submit()

    with pytest.raises(KeyError):
        await asyncio.wait_for(world.engine.stopped(SESSION, "run-1"), DEADLINE_S)
    assert len(world.model.requests) == 1


async def test_waiting_leaves_nothing_behind() -> None:
    world = World(touch_then_done)
    world.touch.hold = asyncio.Event()
    await world.submit()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(world.engine.stopped(SESSION, "run-1"), 0.01)
    assert not world.engine._watchers
    world.touch.hold.set()
    await world.finish()
    await world.engine.stopped(SESSION, "run-1")
    assert not world.engine._watchers


class SlowDisk(MemoryJournal):
    def __init__(self) -> None:
        super().__init__()
        self.entered = asyncio.Event()
        self.go = asyncio.Event()

    async def append(self, transition: Transition, *, also: object = None, meanwhile: object = None) -> None:
        self.entered.set()
        await self.go.wait()
        await super().append(transition)


async def test_a_drain_that_runs_out_of_time_answers_the_command_in_hand_and_those_behind_it() -> None:
    journal = SlowDisk()
    world = World(lambda request: text_reply("x"), journal=journal)
    asked = [asyncio.create_task(world.submit(run_id=f"run-{number}")) for number in (1, 2)]
    await asyncio.wait_for(journal.entered.wait(), DEADLINE_S)
    await world.engine.drain(0.01)

    answers = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), DEADLINE_S)
    assert [type(answer) for answer in answers] == [Draining, Draining]


async def test_text_that_was_cut_off_before_a_tool_call_is_not_part_of_the_answer() -> None:
    def model(request: ModelRequest) -> ModelReply:
        match sum(message.role is Role.ASSISTANT for message in request.messages):
            case 0:
                return text_reply("Let me ", FinishReason.MAX_TOKENS)
            case 1:
                return call_reply(("touch", {"n": 1}))
            case _:
                return text_reply("Done.")

    world = World(model)
    await world.submit()

    assert (await world.finish()).output == "Done."


async def test_continuing_never_asks_for_less_than_the_caller_allowed() -> None:
    def model(request: ModelRequest) -> ModelReply:
        if turns_so_far(request.messages) + len(request.messages) == 1:
            return text_reply("one ", FinishReason.MAX_TOKENS)
        return text_reply("two")

    world = World(model)
    await world.submit(generation=Generation(max_output_tokens=100_000))
    assert (await world.finish()).output == "one two"

    assert [request.generation.max_output_tokens for request in world.model.requests] == [100_000, 100_000]


async def test_restarts_while_a_run_waits_to_try_again_do_not_count_against_it() -> None:
    def model(request: ModelRequest) -> ModelReply:
        raise ProviderError("busy", kind=ErrorKind.RATE_LIMITED, retryable=True, retry_after_ms=60_000)

    world = World(model)
    await world.submit()
    async with asyncio.timeout(DEADLINE_S):
        while (await world.fold()).active.due_at_ms is None:  # type: ignore[union-attr]  # noqa: ASYNC110  # active
            await asyncio.sleep(0)
    for life in "bcde":
        world = World(model, journal=world.journal, clock=world.clock, life=life)
        await world.engine.recover([SESSION])
    state = await world.engine.state(SESSION)

    assert state.active is not None
    assert state.active.resumes == 0
