"""A store that takes no writes for a while costs nothing that was done: it is kept in memory and saved later."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from kheish.core.problems import StoreRejected, StoreUnavailable, StoreUnreadable
from kheish.engine import entries as e
from kheish.engine.entries import OnRestart, Recorded, RunStatus
from kheish.engine.journal import MemoryJournal
from kheish.engine.ports import Also, Meanwhile, Transition
from kheish.providers.protocol import ModelReply, ModelRequest
from tests.engine.world import (
    DEADLINE_S,
    SESSION,
    World,
    call_reply,
    results,
    stop,
    submission,
    text_reply,
    turns_so_far,
)

pytestmark = pytest.mark.anyio

COMMITS = 7
"""Of the run below: accepted; reply and intent; result and intent; result; the same for the pair; the end."""


class Outage(MemoryJournal):
    """Refuses the writes that ``holds`` names, counted from 1; says when it has."""

    def __init__(self, entries: tuple[Recorded, ...] = ()) -> None:
        super().__init__(entries)
        self.tries = 0
        self.refuses: Callable[[int], bool] = lambda number: False
        self.error: Callable[[], StoreUnavailable] = lambda: StoreUnavailable("disk full")
        self.unreadable = False
        self.refused = asyncio.Event()

    async def append(
        self, transition: Transition, *, also: Also | None = None, meanwhile: Meanwhile | None = None
    ) -> None:
        self.tries += 1
        if self.refuses(self.tries):
            self.refused.set()
            raise self.error()
        await super().append(transition, also=also, meanwhile=meanwhile)

    async def load(self, session_id: str) -> tuple[Recorded, ...]:
        if self.unreadable:
            raise StoreUnreadable("a bad page")
        return tuple(await super().load(session_id))


def model(request: ModelRequest) -> ModelReply:
    match turns_so_far(request.messages):
        case 0:
            return call_reply(("touch", {"n": 1}), ("touch", {"n": 2}))
        case 1:
            return call_reply(("poke", {"n": 3}), ("poke", {"n": 4}))
        case _:
            return text_reply(" ".join(str(result.output) for result in results(request.messages)))


async def heal(world: World, *, after_ms: int = 5_000) -> None:
    """Let the refused worker end, then let the time to the next try pass."""
    async with asyncio.timeout(DEADLINE_S):
        while world.engine.active_sessions:  # noqa: ASYNC110  # the engine tells nobody when a worker ends
            await asyncio.sleep(0)
    world.clock.value += after_ms
    world.engine.timers.fire_due()


@pytest.mark.parametrize("times", [1, 4])
@pytest.mark.parametrize("number", range(2, COMMITS + 1))
async def test_whichever_commit_is_refused_the_run_ends_as_if_it_had_not_been(number: int, times: int) -> None:
    calm = World(model)
    await calm.submit()
    expected = await calm.finish()
    assert len(calm.journal.commits) == COMMITS

    journal = Outage()
    journal.refuses = lambda tried: number <= tried < number + times
    world = World(model, journal=journal)
    await world.submit()
    for _ in range(times):
        await asyncio.wait_for(journal.refused.wait(), DEADLINE_S)
        journal.refused.clear()
        await heal(world)
    ended = await world.finish()

    assert (ended.status, ended.output) == (RunStatus.COMPLETED, expected.output)
    assert len(world.model.requests) == len(calm.model.requests)
    assert [one["n"] for one in world.touch.executions] == [1, 2]
    assert sorted(str(one["n"]) for one in world.poke.executions) == ["3", "4"]
    assert [type(one.entry) for one in await journal.load(SESSION)] == [
        type(one.entry) for one in await calm.journal.load(SESSION)
    ]


async def test_a_command_that_comes_meanwhile_is_refused_or_makes_the_next_try() -> None:
    journal = Outage()
    world = World(model, journal=journal)
    world.touch.hold = asyncio.Event()
    await world.submit()
    await asyncio.wait_for(world.touch.started.wait(), DEADLINE_S)
    journal.refuses = lambda tried: True
    world.touch.hold.set()
    await asyncio.wait_for(journal.refused.wait(), DEADLINE_S)
    await heal(world, after_ms=0)
    assert world.engine.held_sessions == 1
    with pytest.raises(StoreUnavailable):
        await world.engine.transition(SESSION, submission("more", "run-2"))
    with pytest.raises(StoreUnavailable):
        await world.engine.state(SESSION)
    assert len(world.model.requests) == 1

    journal.refuses = lambda tried: False
    await world.engine.transition(SESSION, submission("more", "run-3"))
    assert (await world.finish("run-3")).status is RunStatus.COMPLETED
    assert (await world.ending("run-1")).status is RunStatus.COMPLETED
    assert world.engine.held_sessions == 0


async def test_a_drain_tries_once_more_to_save_what_was_done() -> None:
    journal = Outage()
    world = World(model, journal=journal)
    await world.submit()
    journal.refuses = lambda tried: True
    await asyncio.wait_for(journal.refused.wait(), DEADLINE_S)
    await heal(world, after_ms=0)
    assert world.engine.held_sessions == 1
    before = len(await journal.load(SESSION))
    journal.refuses = lambda tried: False
    await asyncio.wait_for(world.engine.drain(5), DEADLINE_S)

    assert len(await journal.load(SESSION)) > before
    assert world.engine.held_sessions == 0


async def test_what_is_still_refused_at_a_drain_is_found_out_after_the_restart() -> None:
    journal = Outage()
    world = World(model, journal=journal)
    world.touch.hold = asyncio.Event()
    await world.submit()
    await asyncio.wait_for(world.touch.started.wait(), DEADLINE_S)
    journal.refuses = lambda tried: True
    world.touch.hold.set()
    await asyncio.wait_for(journal.refused.wait(), DEADLINE_S)
    await asyncio.wait_for(world.engine.drain(5), DEADLINE_S)
    journal.refuses = lambda tried: False

    again = World(model, journal=journal, life="b")
    await again.engine.recover([SESSION])
    assert (await again.finish()).status is RunStatus.COMPLETED
    assert [one["n"] for one in (*world.touch.executions, *again.touch.executions)] == [1, 2]


async def test_a_store_that_is_full_at_the_start_does_not_change_the_restart_policy() -> None:
    first = World(model)
    first.touch.hold = asyncio.Event()
    await first.submit()
    await asyncio.wait_for(first.touch.started.wait(), DEADLINE_S)
    await first.engine.drain(0)

    journal = Outage(tuple(await first.journal.load(SESSION)))
    journal.refuses = lambda tried: True
    world = World(model, journal=journal, life="b", policy=OnRestart.INTERRUPT)
    await asyncio.wait_for(world.engine.recover([SESSION]), DEADLINE_S)
    with pytest.raises(StoreUnavailable):
        await world.engine.state(SESSION)
    assert len(world.engine.quarantine) == 0
    journal.refuses = lambda tried: False
    await heal(world)

    assert (await world.finish()).status is RunStatus.INTERRUPTED
    assert world.model.requests == []
    assert world.touch.executions == []


async def test_a_session_that_could_not_be_read_at_the_start_goes_on_when_it_can() -> None:
    first = World(model)
    first.touch.hold = asyncio.Event()
    await first.submit()
    await asyncio.wait_for(first.touch.started.wait(), DEADLINE_S)
    await first.engine.drain(0)

    journal = Outage(tuple(await first.journal.load(SESSION)))
    journal.unreadable = True
    world = World(model, journal=journal, life="b")
    await asyncio.wait_for(world.engine.recover([SESSION]), DEADLINE_S)
    assert [one.code for one in world.engine.quarantine.listed(5).values()] == ["store_unreadable"]
    journal.unreadable = False
    await heal(world, after_ms=60_000)

    assert (await world.finish()).status is RunStatus.COMPLETED
    assert any(isinstance(one.entry, e.Resumed) for one in await journal.load(SESSION))
    assert len(world.engine.quarantine) == 0


async def test_what_the_store_can_never_take_quarantines_its_session_and_is_not_held() -> None:
    journal = Outage()
    journal.error = lambda: StoreRejected("UNIQUE constraint failed")
    world = World(model, journal=journal)
    await world.submit()
    journal.refuses = lambda tried: True
    await asyncio.wait_for(journal.refused.wait(), DEADLINE_S)
    await heal(world, after_ms=0)

    assert world.engine.held_sessions == 0
    assert [one.code for one in world.engine.quarantine.listed(5).values()] == ["store_rejected"]
    journal.refuses = lambda tried: False
    await heal(world)
    assert (await world.finish()).status is RunStatus.COMPLETED
    assert len(world.engine.quarantine) == 0


async def test_a_run_that_was_told_to_stop_ends_with_the_results_it_had() -> None:
    journal = Outage()
    world = World(model, journal=journal)
    world.poke.hold = asyncio.Event()
    await world.submit()
    await asyncio.wait_for(world.poke.started.wait(), DEADLINE_S)
    stopping = journal.tries + 1
    journal.refuses = lambda tried: tried == stopping + 1
    await world.engine.transition(SESSION, stop("run-1"))
    await asyncio.wait_for(journal.refused.wait(), DEADLINE_S)
    await heal(world)

    assert (await world.finish()).status is RunStatus.CANCELLED
    finished = [one.entry for one in await journal.load(SESSION) if isinstance(one.entry, e.ToolFinished)]
    assert [entry.name for entry in finished][:2] == ["touch", "touch"]
