"""Every prefix again, of runs that wait for a time, repeat a model call, or go on after a reply that was no answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from kheish.core.jsonvalue import JsonObject
from kheish.core.messages import FinishReason, Role
from kheish.engine import entries as e
from kheish.engine.entries import OnInDoubt, Recorded, RunStatus
from kheish.engine.journal import MemoryJournal
from kheish.engine.state import RunState, fold
from kheish.providers.protocol import ErrorKind, ModelReply, ModelRequest, ProviderError
from kheish.questions.models import Answer, UserQuestionResolution
from kheish.questions.rules import answer
from kheish.tools.protocol import ToolOutcome
from tests.engine.world import (
    DEADLINE_S,
    SESSION,
    FakeClock,
    Model,
    World,
    call_reply,
    prefix,
    resolution,
    results,
    text_reply,
)

pytestmark = pytest.mark.anyio

QUESTION: JsonObject = {"id": "q", "question": "Which?", "options": [{"label": "a"}, {"label": "b"}]}
EXPIRES_AFTER_MS = 500
RETRY_AFTER_MS = 4000


async def entries_of(world: World) -> list[Recorded]:
    return list(await world.journal.load(SESSION))


async def reborn(model: Model, kept: Sequence[Recorded], clock: FakeClock) -> World:
    world = World(model, journal=prefix(kept, len(kept)), clock=clock, life="b")
    await world.engine.recover([SESSION])
    return world


async def live(world: World) -> e.RunEnded:
    """Go on until the run has ended: allow, answer, and let time pass where only time helps."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            state = await world.engine.state(SESSION)
            if (run := state.active) is None:
                return await world.ending()
            if world.engine.active_sessions:
                await asyncio.sleep(0)
            elif run.pending_questions:
                await world.engine.transition(
                    SESSION, lambda state, now_ms: answer(state.active, _chosen(state), now_ms)
                )
            elif run.pending_approvals:
                await world.engine.transition(SESSION, resolution("run-1", "allow"))
            elif run.due_at_ms is not None:
                world.clock.value = max(world.clock.value, run.due_at_ms)
                world.engine.timers.fire_due()


def _chosen(state: object) -> UserQuestionResolution:
    run = getattr(state, "active", None)
    assert isinstance(run, RunState)
    chosen = Answer(question_id="q", selected_option_ids=["option-1"])
    return UserQuestionResolution(request_id=str(run.pending_questions[0]["id"]), answers=[chosen])


# Questions that expire


def asking(request: ModelRequest) -> ModelReply:
    """Looks and asks in one message, then says what was answered."""
    if not results(request.messages):
        given: JsonObject = {"questions": [QUESTION], "expires_after_ms": EXPIRES_AFTER_MS}
        return call_reply(("look", {"n": 1}), ("ask_user_question", given), ("touch", {"n": 2}))
    return text_reply(f"{len(results(request.messages))} results")


async def asked_and_answered() -> list[Recorded]:
    world = World(asking)
    await world.submit()
    await live(world)
    return await entries_of(world)


async def test_a_run_with_a_question_that_is_answered_in_time_ends_the_same_from_every_prefix() -> None:
    entries = await asked_and_answered()
    for cut in range(1, len(entries)):
        world = await reborn(asking, entries[:cut], FakeClock())
        assert (await live(world)).output == "3 results"


async def test_a_question_that_expired_while_the_daemon_was_down_ends_its_run_at_boot_from_every_prefix() -> None:
    entries = await asked_and_answered()
    waited = 0
    for cut in range(1, len(entries)):
        run = fold(SESSION, entries[:cut]).active
        clock = FakeClock()
        clock.value += EXPIRES_AFTER_MS
        world = await reborn(asking, entries[:cut], clock)
        ended = await live(world)
        if run is not None and run.status is RunStatus.WAITING_FOR_USER_QUESTION:
            waited += 1
            assert ended.status is RunStatus.CANCELLED
            assert str(run.pending_questions[0]["id"]) in str(ended.error)
            assert (world.model.requests, world.touch.executions) == ([], [])
        else:
            assert ended.status is RunStatus.COMPLETED
    assert waited == 1


# Model calls that are made again


class Busy:
    """Fails the first attempt of every turn, as far as the journal does not say that it was made."""

    def __init__(self, kept: Sequence[Recorded] = ()) -> None:
        self._failed = {recorded.entry.turn for recorded in kept if isinstance(recorded.entry, e.ModelFailed)}

    def __call__(self, request: ModelRequest) -> ModelReply:
        turn = 1 + sum(message.role is Role.ASSISTANT for message in request.messages)
        if turn not in self._failed:
            self._failed.add(turn)
            raise ProviderError("busy", kind=ErrorKind.SERVER_OVERLOADED, retryable=True, retry_after_ms=RETRY_AFTER_MS)
        match turn:
            case 1:
                return call_reply(("poke", {"n": 1}), ("pay", {"n": 2}), ("look", {"n": 3}))
            case 2:
                return text_reply("first half, ", FinishReason.MAX_TOKENS)
            case _:
                return text_reply("second half")


async def test_attempts_truncations_and_a_mixed_batch_end_the_same_from_every_prefix() -> None:
    first = World(Busy())
    await first.submit(on_in_doubt=OnInDoubt.ASK)
    expected = await live(first)
    entries = await entries_of(first)
    assert expected.output == "first half, second half"
    made = sum(isinstance(recorded.entry, e.ModelReplied | e.ModelFailed) for recorded in entries)
    assert made == 6

    for cut in range(1, len(entries)):
        kept = entries[:cut]
        world = await reborn(Busy(kept), kept, FakeClock(kept[-1].at_ms))
        assert (await live(world)).output == expected.output
        recorded_before = sum(isinstance(recorded.entry, e.ModelReplied | e.ModelFailed) for recorded in kept)
        assert len(world.model.requests) == made - recorded_before


async def test_from_every_prefix_that_waits_to_retry_no_model_is_asked_before_the_time_that_was_recorded() -> None:
    first = World(Busy())
    await first.submit()
    await live(first)
    entries = await entries_of(first)
    waited = 0
    for cut in range(1, len(entries)):
        kept = entries[:cut]
        if (run := fold(SESSION, kept).active) is None or run.due_at_ms is None:
            continue
        waited += 1
        world = await reborn(Busy(kept), kept, FakeClock(kept[-1].at_ms + 1000))
        state = await world.engine.state(SESSION)
        assert state.active is not None
        assert (state.active.due_at_ms, world.model.requests) == (run.due_at_ms, [])
        assert world.engine.timers.fire_due() == (RETRY_AFTER_MS - 1000) / 1000
        assert (await live(world)).status is RunStatus.COMPLETED
    assert waited == 3


# Requirements


def writes_when_reminded(request: ModelRequest) -> ModelReply:
    said = [message.role for message in request.messages].count(Role.ASSISTANT)
    return call_reply(("touch", {"n": said})) if said == 1 else text_reply(f"turn {said}")


def writing(kept: Sequence[Recorded]) -> World:
    world = World(writes_when_reminded, journal=MemoryJournal(kept), life="b" if kept else "a")
    wrote = ToolOutcome(output="wrote", context_updates=({"type": "file_modified", "path": "a.md"},))
    world.touch.outcome = world.touch.known = wrote
    return world


async def test_a_requirement_that_is_met_after_a_reminder_is_met_from_every_prefix() -> None:
    first = writing(())
    await first.submit(requirements=({"type": "workspace_file", "path": "a.md"},))
    expected = await live(first)
    entries = await entries_of(first)
    assert (expected.status, expected.output) == (RunStatus.COMPLETED, "turn 2")
    assert any(isinstance(recorded.entry, e.FollowedUp) for recorded in entries)
    for cut in range(1, len(entries)):
        world = writing(entries[:cut])
        await world.engine.recover([SESSION])
        assert await live(world) == expected


async def test_a_run_in_a_queue_keeps_its_place_from_every_prefix() -> None:
    def model(request: ModelRequest) -> ModelReply:
        users = [message.text for message in request.messages if message.role is Role.USER]
        return text_reply(f"did {users[-1]}")

    first = World(model)
    for number in (1, 2, 3):
        await first.submit(f"input {number}", f"run-{number}")
    await first.finish("run-3")
    entries = await entries_of(first)
    for cut in range(1, len(entries)):
        kept = entries[:cut]
        world = World(model, journal=MemoryJournal(kept), life="b")
        await world.engine.recover([SESSION])
        known = [recorded.run_id or "" for recorded in kept if isinstance(recorded.entry, e.InputAccepted)]
        assert [(await world.finish(run_id)).output for run_id in known] == [
            f"did input {number}" for number in range(1, len(known) + 1)
        ]
        started = [recorded.run_id for recorded in await entries_of(world) if isinstance(recorded.entry, e.RunStarted)]
        assert started == known
