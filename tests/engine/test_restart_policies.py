"""What becomes of a run whose daemon died: resumed or interrupted, told or asked about calls in doubt, kept to keys."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TypeVar

import pytest

from kheish.core.jsonvalue import JsonObject
from kheish.engine import entries as e
from kheish.engine.entries import OnInDoubt, OnRestart, Recorded, RunStatus
from kheish.engine.journal import MemoryJournal
from kheish.engine.ports import Proposal
from kheish.providers.protocol import ModelReply, ModelRequest
from kheish.tools.protocol import ToolOutcome
from tests.engine.world import (
    DEADLINE_S,
    SESSION,
    Model,
    TablePermissions,
    World,
    call_reply,
    prefix,
    resolution,
    results,
    stop,
    text_reply,
    turns_so_far,
)

pytestmark = pytest.mark.anyio

T = TypeVar("T")

ACTIVE = "daemon restarted while the run was active"
ASK: dict[str, object] = {"on_in_doubt": OnInDoubt.ASK}


def calls_once(*names: str) -> Model:
    """A model that asks for these calls in one message, then says what came of them."""

    def model(request: ModelRequest) -> ModelReply:
        if turns_so_far(request.messages) == 0:
            return call_reply(*((name, {"n": number}) for number, name in enumerate(names)))
        return text_reply("saw " + "; ".join(str(result.output) for result in results(request.messages)))

    return model


async def killed_while_running(world: World, *held: str, **fields: object) -> MemoryJournal:
    """Submit, wait until the named tools run, and return the journal as a SIGKILL at that moment leaves it."""
    tools = [getattr(world, name) for name in held]
    for tool in tools:
        tool.hold = asyncio.Event()
    await world.submit(**fields)
    async with asyncio.timeout(DEADLINE_S):
        for tool in tools:
            await tool.started.wait()
    kept = list(await world.journal.load(SESSION))
    for tool in tools:
        tool.hold.set()
    await world.finish()
    return MemoryJournal(kept)


async def reborn(journal: MemoryJournal, *names: str, life: str = "b", **options: object) -> World:
    world = World(calls_once(*names), journal=journal, life=life, **options)  # type: ignore[arg-type]  # named by the test
    await world.engine.recover([SESSION])
    return world


def of(kind: type[T], journal: Sequence[Recorded]) -> list[T]:
    return [recorded.entry for recorded in journal if isinstance(recorded.entry, kind)]


async def entries(world: World) -> Sequence[Recorded]:
    return await world.journal.load(SESSION)


# Interrupt


async def test_under_the_policy_interrupt_a_running_run_ends_interrupted_and_nothing_of_it_runs_again() -> None:
    journal = await killed_while_running(World(calls_once("look")), "look")
    world = await reborn(journal, "look", policy=OnRestart.INTERRUPT)

    ended = await world.finish()

    assert (ended.status, ended.error) == (RunStatus.INTERRUPTED, ACTIVE)
    assert (world.model.requests, world.look.executions) == ([], [])
    assert of(e.Resumed, await entries(world)) == []
    assert len(of(e.ToolIntended, await entries(world))) == 1


async def test_what_an_interrupted_call_left_half_written_is_cleared_away() -> None:
    journal = await killed_while_running(World(calls_once("touch")), "touch")
    world = await reborn(journal, policy=OnRestart.INTERRUPT)
    await world.finish()

    [intent] = of(e.ToolIntended, await entries(world))
    assert world.touch.settled == [intent.call_id]
    assert world.touch.executions == []


async def test_the_session_goes_on_after_an_interrupt_and_the_model_reads_that_the_call_was_stopped() -> None:
    journal = await killed_while_running(World(calls_once("touch")), "touch")
    world = await reborn(journal, policy=OnRestart.INTERRUPT)
    await world.finish()

    await world.submit("again", "run-2")
    ended = await world.finish("run-2")

    assert ended.status is RunStatus.COMPLETED
    (result,) = results(world.model.requests[0].messages)
    assert isinstance(result.output, dict)
    assert result.output["interrupted"] is True


async def test_a_run_says_for_itself_what_a_restart_does_with_it() -> None:
    journal = await killed_while_running(World(calls_once("look")), "look", on_restart=OnRestart.INTERRUPT)
    assert (await (await reborn(journal, "look")).finish()).status is RunStatus.INTERRUPTED

    journal = await killed_while_running(World(calls_once("look")), "look", on_restart=OnRestart.RESUME)
    again = await reborn(journal, "look", policy=OnRestart.INTERRUPT)
    assert (await again.finish()).status is RunStatus.COMPLETED


async def test_queued_runs_keep_their_place_behind_an_interrupted_one() -> None:
    first = World(calls_once("touch"))
    first.touch.hold = asyncio.Event()
    for number in (1, 2, 3):
        await first.submit(f"input {number}", f"run-{number}")
    async with asyncio.timeout(DEADLINE_S):
        await first.touch.started.wait()
    journal = MemoryJournal(await entries(first))
    await first.engine.drain(0)

    world = await reborn(journal, policy=OnRestart.INTERRUPT)
    endings = [await world.finish(f"run-{number}") for number in (1, 2, 3)]

    assert [ended.status for ended in endings] == [RunStatus.INTERRUPTED, RunStatus.COMPLETED, RunStatus.COMPLETED]
    started = [recorded.run_id for recorded in await entries(world) if isinstance(recorded.entry, e.RunStarted)]
    assert started == ["run-1", "run-2", "run-3"]


async def test_a_run_that_waits_for_a_human_is_not_interrupted() -> None:
    journal = await killed_while_running(World(calls_once("touch")), "touch", **ASK)
    waiting = await reborn(journal, "touch")
    before = (await waiting.quiet()).active
    assert before is not None

    again = await reborn(MemoryJournal(await entries(waiting)), "touch", life="c", policy=OnRestart.INTERRUPT)
    after = (await again.quiet()).active

    assert after is not None
    assert (after.status, after.pending_approvals) == (RunStatus.WAITING_FOR_APPROVAL, before.pending_approvals)


async def test_a_stop_that_was_recorded_before_the_kill_wins_over_the_policy() -> None:
    journal = await killed_while_running(World(calls_once("look")), "look")
    dying = World(calls_once("look"), journal=journal, life="b")
    await dying.engine.transition(SESSION, stop("run-1"))
    kept = await dying.journal.load(SESSION)
    cut = next(at for at, recorded in enumerate(kept, 1) if isinstance(recorded.entry, e.StopRequested))

    world = await reborn(prefix(kept, cut), policy=OnRestart.INTERRUPT)

    assert (await world.finish()).status is RunStatus.CANCELLED


# Ask about calls in doubt


async def test_a_call_in_doubt_is_asked_about_and_runs_again_when_allowed() -> None:
    journal = await killed_while_running(World(calls_once("touch")), "touch", **ASK)
    world = await reborn(journal, "touch")

    run = (await world.quiet()).active
    assert run is not None
    (request,) = run.pending_approvals
    assert (request["in_doubt"], request["tool_name"], request["input"]) == (True, "touch", {"n": 0})
    assert world.touch.executions == []
    await world.allow_all()
    ended = await world.finish()

    assert world.touch.executions == [{"n": 0}]
    assert ended.output == "saw {'did': {'n': 0}}"
    assert [intent.attempt for intent in of(e.ToolIntended, await entries(world))] == [1, 2]


async def test_a_call_in_doubt_that_is_denied_is_not_repeated_and_the_model_reads_why() -> None:
    journal = await killed_while_running(World(calls_once("touch")), "touch", **ASK)
    world = await reborn(journal, "touch")
    await world.quiet()
    await world.engine.transition(SESSION, resolution("run-1", "deny", reason="I looked: it is there."))
    await world.finish()

    (result,) = results(world.model.requests[0].messages)
    assert (result.is_error, world.touch.executions) == (True, [])
    assert isinstance(result.output, dict)
    assert "may or may not have taken effect and was not repeated" in str(result.output["error"])
    assert "I looked: it is there." in str(result.output["error"])
    assert (result.output["reason"], result.output["denied"]) == ("daemon_restart", True)


async def test_each_new_doubt_is_asked_about_anew_and_a_patient_human_is_no_crash_loop() -> None:
    journal = await killed_while_running(World(calls_once("touch")), "touch", **ASK)
    seen: list[object] = []
    for life in "bcdefg":
        world = await reborn(journal, "touch", life=life)
        run = (await world.quiet()).active
        assert run is not None
        seen.append(run.pending_approvals[0]["id"])
        world.touch.hold = asyncio.Event()
        await world.allow_all()
        async with asyncio.timeout(DEADLINE_S):
            await world.touch.started.wait()
        journal = MemoryJournal(await entries(world))
        await world.engine.drain(0)

    world = await reborn(journal, "touch", life="h")
    await world.quiet()
    await world.allow_all()
    assert (await world.finish()).status is RunStatus.COMPLETED
    assert len(set(seen)) == 6
    assert [intent.attempt for intent in of(e.ToolIntended, await entries(world))] == list(range(1, 9))


async def test_what_the_tool_can_explain_is_not_asked() -> None:
    journal = await killed_while_running(World(calls_once("touch")), "touch", **ASK)
    world = World(calls_once("touch"), journal=journal, life="b")
    world.touch.known = ToolOutcome(output={"did": "it all along"})
    await world.engine.recover([SESSION])

    assert (await world.finish()).output == "saw {'did': 'it all along'}"
    assert of(e.InDoubtAsked, await entries(world)) == []


async def test_a_human_may_replace_what_runs_again_and_what_ran_first_stays_on_record() -> None:
    journal = await killed_while_running(World(calls_once("touch")), "touch", **ASK)
    world = await reborn(journal, "touch")
    await world.quiet()
    await world.engine.transition(SESSION, resolution("run-1", "allow", updated_input={"n": 7}))
    await world.finish()

    assert world.touch.executions == [{"n": 7}]
    assert [intent.input for intent in of(e.ToolIntended, await entries(world))] == [{"n": 0}, {"n": 7}]


async def test_what_a_human_put_in_place_of_the_input_is_what_is_asked_about_and_what_runs_again() -> None:
    asks = TablePermissions(asks=frozenset({"touch"}))
    first = World(calls_once("touch"), permissions=asks)
    first.touch.hold = asyncio.Event()
    await first.submit(**ASK)
    await first.quiet()
    await first.engine.transition(SESSION, resolution("run-1", "allow", updated_input={"n": 7}))
    async with asyncio.timeout(DEADLINE_S):
        await first.touch.started.wait()
    journal = MemoryJournal(await entries(first))
    await first.engine.drain(0)

    world = await reborn(journal, "touch", permissions=asks)
    run = (await world.quiet()).active
    assert run is not None
    assert run.pending_approvals[0]["input"] == {"n": 7}
    await world.allow_all()
    await world.finish()
    assert world.touch.executions == [{"n": 7}]


async def test_each_of_three_vain_resumes_is_a_try_and_there_is_no_fourth() -> None:
    journal = await killed_while_running(World(calls_once("look")), "look")
    for life in "bcd":
        world = World(calls_once("look"), journal=journal, life=life)
        world.look.hold = asyncio.Event()
        await world.engine.recover([SESSION])
        async with asyncio.timeout(DEADLINE_S):
            await world.look.started.wait()
        await world.engine.drain(0)

    ended = await (await reborn(journal, "look", life="e")).finish()

    assert (ended.status, ended.error) == (RunStatus.FAILED, "resume_limit_reached")


async def test_a_batch_of_every_class_waits_as_a_whole_and_each_call_is_treated_as_its_class() -> None:
    names = ("poke", "look", "pay", "poke")
    first = World(calls_once(*names))
    journal = await killed_while_running(first, "poke", "look", "pay", **ASK)
    world = await reborn(journal, *names)

    run = (await world.quiet()).active
    assert run is not None
    assert [request["tool_name"] for request in run.pending_approvals] == ["poke", "poke"]
    assert (world.poke.executions, world.look.executions, world.pay.executions) == ([], [], [])
    one, other = (request["id"] for request in run.pending_approvals)
    resolved: tuple[JsonObject, ...] = (
        {"request_id": one, "behavior": "allow"},
        {"request_id": other, "behavior": "deny"},
    )
    await world.engine.transition(SESSION, lambda state, now_ms: (_resolved(resolved),))
    ended = await world.finish()

    assert (world.poke.executions, world.look.executions) == ([{"n": 0}], [{"n": 1}])
    assert first.pay.keys == world.pay.keys
    assert ended.output is not None
    assert [said.split("'")[1] for said in ended.output.removeprefix("saw ").split("; ")[:3]] == ["did"] * 3
    finished = [entry.name for entry in of(e.ToolFinished, await entries(world))]
    assert finished == list(names)


def _resolved(resolutions: tuple[JsonObject, ...]) -> Proposal:
    return Proposal(entry=e.ApprovalsResolved(resolutions=resolutions), run_id="run-1")


# Keys and the resumed entry


async def test_a_keyed_call_runs_again_with_the_key_it_had() -> None:
    first = World(calls_once("pay", "pay"))
    journal = await killed_while_running(first, "pay")
    world = await reborn(journal, "pay", "pay")

    assert (await world.finish()).status is RunStatus.COMPLETED
    assert first.pay.keys == world.pay.keys
    assert len(set(first.pay.keys.values())) == 2
    assert all(key.startswith("kheish-") for key in first.pay.keys.values())


async def test_the_resumed_entry_names_what_is_reused_and_every_call_that_may_have_run() -> None:
    names = ("look", "note", "touch", "look")
    first = World(calls_once(*names))
    journal = await killed_while_running(first, "touch")
    world = await reborn(journal, *names)
    await world.finish()

    (resumed,) = of(e.Resumed, await entries(world))
    (reply,) = [entry for entry in of(e.ModelReplied, await entries(world)) if entry.turn == 1]
    ids = [part.call_id for part in reply.parts if hasattr(part, "call_id")]
    assert (resumed.reason, resumed.turn) == ("daemon_restart", 1)
    assert (list(resumed.reused_call_ids), list(resumed.in_doubt_call_ids)) == (ids[:2], [ids[2]])


@pytest.mark.parametrize(("name", "in_doubt"), [("look", 1), ("pay", 1), ("poke", 1), ("touch", 1), ("note", 0)])
async def test_a_call_whose_effect_is_rows_of_the_store_is_never_in_doubt_and_any_other_is(
    name: str, in_doubt: int
) -> None:
    journal = await killed_while_running(World(calls_once(name)), name)
    world = await reborn(journal, name)
    await world.finish()

    (resumed,) = of(e.Resumed, await entries(world))
    assert len(resumed.in_doubt_call_ids) == in_doubt
