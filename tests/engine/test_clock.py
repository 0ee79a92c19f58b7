"""The machine's clock is set back, or jumps, while runs wait and daemons die: times stay in order, every wait ends."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kheish.core.jsonvalue import JsonObject
from kheish.engine import entries as e
from kheish.engine.entries import RunStatus
from kheish.engine.state import SessionState
from kheish.engine.timers import TimerService
from kheish.providers.protocol import ErrorKind, ModelReply, ModelRequest, ProviderError
from tests.engine.world import DEADLINE_S, SESSION, FakeClock, Model, World, call_reply, text_reply, turns_so_far

pytestmark = pytest.mark.anyio

HOUR = 3_600_000
JUMPS = [-HOUR, -1, 1, HOUR, 1000 * HOUR]


def busy_first(times: int = 1) -> Model:
    """A provider that is busy at the first attempts and names four seconds."""
    attempts = 0

    def model(request: ModelRequest) -> ModelReply:
        nonlocal attempts
        attempts += 1
        if attempts <= times:
            raise ProviderError("busy", kind=ErrorKind.SERVER_OVERLOADED, retryable=True, retry_after_ms=4000)
        return text_reply("done")

    return model


def asking(**expiry: int) -> Model:
    """Asks a question that expires, then says goodbye."""
    question: JsonObject = {"question": "Which?", "options": [{"label": "a"}, {"label": "b"}]}

    def model(request: ModelRequest) -> ModelReply:
        return call_reply(("ask_user_question", {"questions": [question], **expiry}))

    return model


async def until_waiting(world: World) -> None:
    """Wait until the session has nothing to do before some time."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            state = await world.engine.state(SESSION)
            if state.active is not None and state.active.due_at_ms is not None and not world.engine.active_sessions:
                return
            await asyncio.sleep(0)


async def reborn(world: World, model: Model, life: str = "b") -> World:
    again = World(model, journal=world.journal, clock=world.clock, life=life)
    await again.engine.recover([SESSION])
    return again


async def test_a_wait_is_not_longer_because_the_clock_was_set_back_while_it_lasted() -> None:
    world = World(busy_first())
    await world.submit()
    await until_waiting(world)
    world.clock.jump(-HOUR)

    assert world.engine.timers.fire_due() == 4.0
    world.clock.value += 3999
    world.engine.timers.fire_due()
    assert (await world.engine.state(SESSION)).active is not None
    world.clock.value += 1
    world.engine.timers.fire_due()

    assert (await world.finish()).output == "done"


async def test_a_wait_is_not_longer_because_the_clock_was_set_back_while_the_daemon_was_down() -> None:
    world = World(busy_first())
    await world.submit()
    await until_waiting(world)
    world.clock.jump(-HOUR)
    again = await reborn(world, busy_first(0))

    assert again.engine.timers.fire_due() == 4.0
    world.clock.value += 4000
    again.engine.timers.fire_due()

    assert (await again.finish()).output == "done"


async def test_what_fell_due_while_the_daemon_was_down_goes_on_at_boot() -> None:
    world = World(busy_first())
    await world.submit()
    await until_waiting(world)
    world.clock.value += 4000
    again = await reborn(world, busy_first(0))

    assert (await again.finish()).output == "done"
    assert "Resumed" in [type(recorded.entry).__name__ for recorded in await again.journal.load(SESSION)]


async def test_a_wait_that_has_not_ended_keeps_its_due_time_over_a_restart() -> None:
    world = World(busy_first())
    await world.submit()
    await until_waiting(world)
    due = (await world.engine.state(SESSION)).active
    assert due is not None
    world.clock.value += 3000
    again = await reborn(world, busy_first(0))

    kept = (await again.engine.state(SESSION)).active
    assert kept is not None
    assert kept.due_at_ms == due.due_at_ms
    assert again.engine.timers.fire_due() == 1.0


async def test_a_session_ahead_of_the_clock_still_waits_between_attempts_and_no_wait_is_lost() -> None:
    world = World(busy_first())
    await world.submit("first", "run-1")
    await until_waiting(world)
    world.clock.jump(-HOUR)
    world.clock.value += 4000
    world.engine.timers.fire_due()
    await world.finish()

    again = await reborn(world, busy_first())
    await again.submit("second", "run-2")
    await until_waiting(again)
    assert again.engine.timers.fire_due() == 4.0
    world.clock.value += 4000
    again.engine.timers.fire_due()
    assert (await again.finish("run-2")).output == "done"


@pytest.mark.parametrize("down", [False, True])
async def test_a_question_expires_after_its_time_whatever_the_clock_was_set_to(down: bool) -> None:
    world = World(asking(expires_after_ms=500))
    await world.submit()
    await world.quiet()
    world.clock.jump(-HOUR)
    if down:
        world = await reborn(world, asking(expires_after_ms=500))
        await world.quiet()
    world.clock.value += 499
    world.engine.timers.fire_due()
    assert (await world.quiet()).active is not None
    world.clock.value += 1
    world.engine.timers.fire_due()

    assert (await world.finish()).status is RunStatus.CANCELLED


async def test_a_deadline_on_the_wall_is_as_far_away_as_the_wall_says_when_the_session_is_ahead_of_it() -> None:
    clock = FakeClock(now_ms=100 * HOUR)
    first = World(lambda request: text_reply("hi"), clock=clock)
    await first.submit()
    await first.finish()
    clock.jump(-90 * HOUR)
    world = World(asking(expires_at_ms=10 * HOUR + 500), journal=first.journal, clock=clock, life="b")
    await world.submit("ask", "run-2")
    assert (await world.quiet()).active is not None
    clock.value += 500
    world.engine.timers.fire_due()

    assert (await world.finish("run-2")).status is RunStatus.CANCELLED


@settings(max_examples=60, deadline=None)
@given(jumps=st.lists(st.sampled_from(JUMPS), min_size=3, max_size=3), kept=st.integers(min_value=2, max_value=30))
def test_offsets_and_times_stay_in_order_whatever_the_clock_does_between_lives(jumps: list[int], kept: int) -> None:
    def model(request: ModelRequest) -> ModelReply:
        turn = turns_so_far(request.messages)
        return call_reply(("look", {"n": turn}), ("touch", {"n": turn})) if turn < 3 else text_reply("done")

    async def lives() -> None:
        world = World(model, clock=FakeClock(now_ms=2000 * HOUR))
        await world.submit()
        await world.finish()
        journal = list(await world.journal.load(SESSION))
        for life, jump in zip("bcd", jumps, strict=True):
            world.clock.jump(jump)
            cut = World(model, clock=world.clock, life=life, journal=type(world.journal)(journal[:kept]))
            await cut.engine.recover([SESSION])
            await cut.finish()
            journal = list(await cut.journal.load(SESSION))
            assert [recorded.offset for recorded in journal] == list(range(1, len(journal) + 1))
            assert all(one.at_ms <= other.at_ms for one, other in itertools.pairwise(journal))
            assert await cut.fold() == SessionState(session_id=SESSION, next_offset=len(journal) + 1)

    asyncio.run(asyncio.wait_for(lives(), DEADLINE_S * 3))


def test_a_timer_follows_the_clock_forwards_and_the_time_that_passes_when_the_clock_goes_back() -> None:
    clock, woken = FakeClock(), list[tuple[str, int]]()
    timers = TimerService(clock=clock, wake=lambda session_id, due_ms: woken.append((session_id, due_ms)))
    timers.set("slept", 10, in_ms=HOUR)
    clock.jump(HOUR)
    timers.fire_due()
    assert woken == [("slept", 10)]

    timers.set("back", 20, in_ms=1000)
    timers.set("replaced", 30, in_ms=10)
    timers.set("replaced", 40, in_ms=2000)
    clock.jump(-2 * HOUR)
    clock.value += 1000
    assert timers.fire_due() == 1.0
    clock.value += 1000
    timers.fire_due()
    assert woken[1:] == [("back", 20), ("replaced", 40)]


def test_the_entry_of_a_wake_stands_at_the_time_that_was_waited_for() -> None:
    async def run() -> None:
        world = World(busy_first())
        await world.submit()
        await until_waiting(world)
        world.clock.jump(-HOUR)
        world.clock.value += 4000
        world.engine.timers.fire_due()
        await world.finish()
        journal = await world.journal.load(SESSION)
        (failed,) = [recorded for recorded in journal if isinstance(recorded.entry, e.ModelFailed)]
        (woken,) = [recorded for recorded in journal if isinstance(recorded.entry, e.Woken)]
        assert isinstance(failed.entry, e.ModelFailed)
        assert (failed.entry.retry_at_ms, woken.at_ms) == (failed.at_ms + 4000, failed.at_ms + 4000)

    asyncio.run(asyncio.wait_for(run(), DEADLINE_S))
