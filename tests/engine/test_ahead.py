"""While a commit is on its way to the disk, the next request is written and the last answer read to its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import cast

import pytest

from kheish.core.problems import Problem, StoreUnavailable
from kheish.engine import entries as e
from kheish.engine.endings import Endings
from kheish.engine.entries import RouteRef, RunStatus
from kheish.engine.hands import Draining
from kheish.engine.journal import MemoryJournal
from kheish.engine.model_calls import ModelCall
from kheish.engine.ports import Also, Meanwhile, Proposal, Transition
from kheish.engine.state import RunState
from kheish.providers.protocol import ErrorKind, ModelReply, ModelRequest, Provider, ProviderError, TextDelta
from tests.engine.world import (
    DEADLINE_S,
    SESSION,
    FunctionModel,
    Model,
    World,
    call_reply,
    stop,
    submission,
    text_reply,
    turns_so_far,
)

pytestmark = pytest.mark.anyio


class SlowCommits(MemoryJournal):
    """Commits take until the test lets them; those that ``fails`` names, counted from 1, come to nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Semaphore(0)
        self.under_way = asyncio.Semaphore(0)
        self.number = 0
        self.fails: frozenset[int] = frozenset()

    async def append(
        self, transition: Transition, *, also: Also | None = None, meanwhile: Meanwhile | None = None
    ) -> None:
        self.number += 1
        if meanwhile is not None:
            meanwhile()
        self.under_way.release()
        number = self.number
        await self.go.acquire()
        if number in self.fails:
            raise StoreUnavailable("disk full")
        await super().append(transition, also=also)

    async def one_under_way(self) -> None:
        async with asyncio.timeout(DEADLINE_S):
            await self.under_way.acquire()


class WritingModel(FunctionModel):
    """Tells written requests from those that went out, and can leave the end of its answers open."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.written: list[ModelRequest] = []
        self.unwritable = False
        self.end: asyncio.Event | None = None
        """What comes behind a reply, where it does not come with it."""
        self.enders: list[str] = []
        """The tasks that saw answers to their end."""
        self.talks = asyncio.Event()
        self.talks.set()
        """Until then answers do not come."""
        self.asked = asyncio.Event()
        self.serves = self

    def provider_for(self, route: RouteRef) -> Provider:
        return self.serves

    def stream(self, request: ModelRequest) -> AsyncGenerator[TextDelta | ModelReply, None]:
        if self.unwritable:
            raise ProviderError("cannot be sent", kind=ErrorKind.INVALID_REQUEST, retryable=False)
        self.written.append(request)
        return self._answer(request)

    async def _answer(self, request: ModelRequest) -> AsyncGenerator[TextDelta | ModelReply, None]:
        self.requests.append(request)
        self.asked.set()
        await self.talks.wait()
        try:
            yield self._model(request)
        finally:
            task = asyncio.current_task()
            self.enders.append("nobody" if task is None else task.get_name().partition(":")[0])
            if self.end is not None:
                await self.end.wait()


def touch_then_done(request: ModelRequest) -> ModelReply:
    return text_reply("done") if turns_so_far(request.messages) else call_reply(("look", {"n": 1}))


def slow_world(model: Model = touch_then_done) -> tuple[World, SlowCommits, WritingModel]:
    journal, written = SlowCommits(), WritingModel(model)
    world = World(model, journal=journal, provider=written)
    return world, journal, written


async def everything_else() -> None:
    """Let the other tasks go as far as they can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_request_is_written_while_its_commit_is_under_way_and_goes_out_when_it_is_durable() -> None:
    world, journal, model = slow_world()
    submitted = asyncio.create_task(world.submit())
    seen = []
    for _ in range(4):  # accepted; reply and intent; result; the end
        await journal.one_under_way()
        seen.append((len(model.written), len(model.requests)))
        journal.go.release()
    await submitted

    assert (await world.finish()).output == "done"
    assert seen == [(1, 0), (1, 1), (2, 1), (2, 2)]
    assert model.requests == model.written


async def test_a_request_whose_commit_fails_never_goes_out() -> None:
    world, journal, model = slow_world()
    journal.fails = frozenset({1})
    submitted = asyncio.create_task(world.submit())
    await journal.one_under_way()
    journal.go.release()

    with pytest.raises(StoreUnavailable):
        await submitted
    assert (len(model.written), len(model.requests)) == (1, 0)
    journal.go.release()
    journal.go.release()
    journal.go.release()
    journal.go.release()
    await world.submit("another", run_id="run-2")
    assert (await world.finish("run-2")).output == "done"
    said = [[part for message in request.messages for part in message.parts] for request in model.requests]
    assert "another" in str(said)
    assert "'go'" not in str(said)


async def test_a_stop_that_was_asked_for_while_the_commit_was_under_way_keeps_the_request_in() -> None:
    world, journal, model = slow_world()
    submitted = asyncio.create_task(world.submit())
    await journal.one_under_way()
    stopped = asyncio.create_task(world.engine.transition(SESSION, stop("run-1")))
    await asyncio.sleep(0)  # it is posted behind the input
    for _ in range(3):
        journal.go.release()
    await asyncio.gather(submitted, stopped)

    assert (await world.finish()).status is not RunStatus.COMPLETED
    assert model.requests == []


async def test_what_is_recorded_before_a_written_request_goes_out_is_in_it() -> None:
    world, journal, model = slow_world()
    submitted = asyncio.create_task(world.submit())
    await journal.one_under_way()
    hint = Proposal(entry=e.FollowedUp(reason="test", text="and be quick"), run_id="run-1")
    hinted = asyncio.create_task(world.engine.transition(SESSION, lambda state, now_ms: [hint]))
    await asyncio.sleep(0)  # it is posted behind the input
    for _ in range(6):
        journal.go.release()
    await asyncio.gather(submitted, hinted)
    await world.finish()

    assert all("and be quick" in str(request.messages) for request in model.requests)
    assert "and be quick" not in str(model.written[0].messages)


async def test_a_request_whose_commit_failed_is_written_again_when_it_is_saved_at_last() -> None:
    world, journal, model = slow_world()
    journal.fails = frozenset({3})  # of the tool's result
    for _ in range(10):
        journal.go.release()
    await world.submit()
    for _ in range(3):
        await journal.one_under_way()
    await everything_else()
    assert world.engine.held_sessions == 1
    world.clock.value += 60_000
    world.engine.timers.fire_due()

    assert (await world.finish()).output == "done"
    assert (len(model.written), len(model.requests)) == (3, 2)


async def test_a_route_that_changes_while_the_commit_is_under_way_is_asked_as_it_is_now() -> None:
    world, journal, before = slow_world()
    submitted = asyncio.create_task(world.submit())
    await journal.one_under_way()
    after = before.serves = WritingModel(lambda request: text_reply("from the new one"))
    journal.go.release()
    journal.go.release()
    await submitted

    assert (await world.finish()).output == "from the new one"
    assert (len(before.written), before.requests, len(after.requests)) == (1, [], 1)


async def test_a_request_that_cannot_be_written_fails_its_run_as_ever() -> None:
    world, journal, model = slow_world()
    model.unwritable = True
    for _ in range(3):
        journal.go.release()
    await world.submit()

    ended = await world.finish()
    assert ended.status is RunStatus.FAILED
    assert "cannot be sent" in str(ended.error)


async def test_the_end_of_an_answer_holds_up_neither_its_run_nor_the_acceptance_of_another() -> None:
    model = WritingModel(lambda request: text_reply("done"))
    model.end = asyncio.Event()
    world = World(touch_then_done, provider=model)
    await world.submit()
    assert (await world.finish()).output == "done"
    await world.submit("another", run_id="run-2")
    await everything_else()
    assert len(model.requests) == 1  # the connection of the first answer is not free yet

    model.end.set()
    assert (await world.finish("run-2")).output == "done"
    assert len(model.requests) == 2


async def test_an_end_that_never_comes_holds_up_the_next_request_for_a_while_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kheish.engine.endings._END_S", 0.01)
    model = WritingModel(touch_then_done)
    model.end = asyncio.Event()
    world = World(touch_then_done, provider=model)
    await world.submit()

    assert (await world.finish()).output == "done"
    assert len(model.requests) == 2


@pytest.mark.parametrize("turns", range(4))
async def test_ends_can_be_left_at_the_moment_the_last_one_is_over(turns: int) -> None:
    over = asyncio.Event()
    call = SimpleNamespace(run=SimpleNamespace(run_id="run-1"), aclose=over.wait)
    endings = Endings(lambda: None)
    endings.add(cast("ModelCall", call))
    endings.begin()
    await asyncio.sleep(0)
    over.set()
    for _ in range(turns):
        await asyncio.sleep(0)

    await endings.abandon()

    assert not endings.under_way


async def test_a_drain_ends_in_time_also_when_the_end_of_an_answer_never_comes() -> None:
    model = WritingModel(lambda request: text_reply("done"))
    model.end = asyncio.Event()
    world = World(touch_then_done, provider=model)
    await world.submit()
    await world.finish()
    await everything_else()
    assert world.engine.active_sessions == 1
    async with asyncio.timeout(DEADLINE_S):
        await world.engine.drain(0.05)

    assert model.enders == ["ending"]
    assert world.engine.active_sessions == 0


@pytest.mark.parametrize("by", ["a stop", "a drain"])
async def test_an_answer_that_nobody_takes_is_closed_by_its_session(by: str) -> None:
    world, journal, model = slow_world(lambda request: text_reply("done"))
    model.talks.clear()
    journal.go.release()
    await world.submit()
    await journal.one_under_way()
    await asyncio.wait_for(model.asked.wait(), DEADLINE_S)
    rule = stop("run-1") if by == "a stop" else submission("another", "run-2")
    other = asyncio.create_task(world.engine.transition(SESSION, rule))
    await journal.one_under_way()
    model.talks.set()  # the answer comes while that is on its way to the disk
    await everything_else()
    if by == "a stop":
        for _ in range(3):
            journal.go.release()
        await other
        await world.finish()
        await world.engine.drain(DEADLINE_S)
    else:
        await world.engine.drain(0.01)
        with pytest.raises(Draining):
            await other

    assert model.enders == ["ending"]


@pytest.mark.parametrize("ends", [True, False], ids=["with its answer's end", "without"])
async def test_a_reply_that_the_store_refused_is_kept_and_saved_by_the_drain(ends: bool) -> None:
    world, journal, model = slow_world(lambda request: text_reply("done"))
    model.end = None if ends else asyncio.Event()
    journal.fails = frozenset({2})
    for _ in range(10):
        journal.go.release()
    await world.submit()
    for _ in range(2):
        await journal.one_under_way()
    await everything_else()
    assert world.engine.held_sessions == 1
    await world.engine.drain(DEADLINE_S)

    kinds = [type(recorded.entry) for recorded in await journal.load(SESSION)]
    assert kinds.count(e.ModelReplied) == 1
    assert len(model.requests) == 1


async def test_a_session_that_is_cut_off_twice_answers_who_waits_for_it() -> None:
    world, journal, model = slow_world(lambda request: text_reply("done"))
    model.end = asyncio.Event()
    journal.fails = frozenset({2})
    journal.go.release()
    await world.submit()
    for _ in range(2):
        await journal.one_under_way()
    asked = asyncio.create_task(world.engine.transition(SESSION, stop("run-1")))
    await asyncio.sleep(0)
    for _ in range(2):
        for task in tuple(world.engine._tasks):
            task.cancel()
        await asyncio.sleep(0)

    with pytest.raises(Draining):
        await asyncio.wait_for(asked, DEADLINE_S)


async def test_what_may_not_be_borrowed_when_the_commit_is_durable_does_not_go_out_although_it_was_written() -> None:
    class Revoked(Problem):
        code, status = "revoked", 403

    class Revoking:
        async def borrow(self, run: RunState) -> e.CredentialUse:
            raise Revoked("this credential was revoked")

        def require(self, use: e.CredentialUse) -> None:
            raise AssertionError("nothing was borrowed")

    world, journal, model = slow_world()
    world.engine._hands.models._lender = Revoking()
    submitted = asyncio.create_task(world.submit())
    await journal.one_under_way()
    assert len(model.written) == 1
    for _ in range(6):
        journal.go.release()
    await submitted

    assert "this credential was revoked" in str((await world.finish()).error)
    assert model.requests == []


async def test_an_answer_whose_end_breaks_counts_all_the_same() -> None:
    class Breaking(WritingModel):
        async def _answer(self, request: ModelRequest) -> AsyncGenerator[TextDelta | ModelReply, None]:
            try:
                yield self._model(request)
            finally:
                self.enders.append("ending")
                raise ValueError("a bug behind the reply")

    model = Breaking(touch_then_done)
    world = World(touch_then_done, provider=model)
    await world.submit()

    assert (await world.finish()).output == "done"
    await world.engine.drain(DEADLINE_S)
    assert len(model.enders) == 2


async def test_inputs_that_are_accepted_at_once_do_not_share_a_request() -> None:
    world, journal, _ = slow_world(lambda request: text_reply(str(len(request.messages))))
    rules = [submission(f"number {n}", f"run-{n}") for n in range(3)]
    asked = [asyncio.create_task(world.engine.transition(SESSION, rule)) for rule in rules]
    for _ in range(20):
        journal.go.release()
    await asyncio.gather(*asked)
    outputs = [(await world.finish(f"run-{n}")).output for n in range(3)]

    assert outputs == ["1", "3", "5"]
    kinds = [type(recorded.entry) for recorded in await journal.load(SESSION)]
    assert kinds.count(e.ModelReplied) == 3
