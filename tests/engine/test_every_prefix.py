"""Decision 1: cut the journal of any run at any entry, restart from the prefix, demand the same answer."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kheish.core.messages import Role
from kheish.engine import entries as e
from kheish.engine.engine import resume
from kheish.engine.entries import Recorded, RunStatus
from kheish.engine.journal import MemoryJournal
from kheish.engine.ports import Transition
from kheish.engine.state import advance, fold
from kheish.providers.protocol import ModelReply, ModelRequest
from tests.engine.world import (
    DEADLINE_S,
    SESSION,
    Model,
    TablePermissions,
    World,
    call_reply,
    prefix,
    results,
    text_reply,
    turns_so_far,
)

Script = list[list[str]]

turns = st.lists(st.sampled_from(["touch", "look", "note"]), min_size=1, max_size=3)
scripts = st.lists(turns, min_size=0, max_size=3)


def scripted(script: Script) -> Model:
    """Asks for the script's calls turn by turn, then answers with what the results say."""

    def model(request: ModelRequest) -> ModelReply:
        turn = turns_so_far(request.messages)
        if turn < len(script):
            return call_reply(*((name, {"n": turn * 10 + at}) for at, name in enumerate(script[turn])))
        said = [str(result.output) for result in results(request.messages)]
        return text_reply("saw " + "; ".join(said))

    return model


async def live(world: World) -> e.RunEnded:
    """Go on until the run has ended, allowing every wave of approvals."""
    while True:
        state = await world.quiet()
        if state.run("run-1") is None:
            return await world.ending()
        await world.allow_all()


async def whole(script: Script, asks: frozenset[str]) -> tuple[list[Recorded], e.RunEnded]:
    world = World(scripted(script), permissions=TablePermissions(asks))
    await world.submit()
    ended = await live(world)
    return list(await world.journal.load(SESSION)), ended


async def check_prefix(script: Script, asks: frozenset[str], entries: list[Recorded], cut: int, answer: str) -> None:
    kept = entries[:cut]
    world = World(scripted(script), journal=prefix(entries, cut), permissions=TablePermissions(asks), life="b")
    await world.engine.recover([SESSION])
    ended = await live(world)

    replies = sum(isinstance(recorded.entry, e.ModelReplied) for recorded in kept)
    assert len(world.model.requests) == len(script) + 1 - replies, "a recorded model reply was requested again"
    intended = {r.entry.call_id: r.entry for r in kept if isinstance(r.entry, e.ToolIntended)}
    finished = {r.entry.call_id for r in kept if isinstance(r.entry, e.ToolFinished)}
    doubtful = [i for call_id, i in intended.items() if call_id not in finished and i.name == "touch"]
    repeated = [i.input for i in intended.values() if i.name == "touch" and i.input in world.touch.executions]
    assert repeated == [], "a call that may have run was run again"
    assert ended.status is RunStatus.COMPLETED
    if doubtful:
        outputs = [str(result.output) for result in results(world.model.requests[0].messages)]
        assert any("daemon_restart" in output for output in outputs)
    else:
        assert ended.output == answer


@settings(max_examples=25, deadline=None)
@given(script=scripts, asks=st.sampled_from([frozenset[str](), frozenset({"touch"}), frozenset({"touch", "look"})]))
def test_a_run_cut_at_any_entry_ends_with_the_same_answer(script: Script, asks: frozenset[str]) -> None:
    async def all_prefixes() -> None:
        entries, ended = await whole(script, asks)
        assert ended.status is RunStatus.COMPLETED
        assert ended.output is not None
        for cut in range(1, len(entries)):
            await check_prefix(script, asks, entries, cut, ended.output)

    asyncio.run(asyncio.wait_for(all_prefixes(), 60))


@settings(max_examples=25, deadline=None)
@given(script=scripts)
def test_folding_a_journal_gives_the_state_the_engine_had(script: Script) -> None:
    async def run() -> None:
        world = World(scripted(script))
        await world.submit()
        await live(world)
        assert await world.fold() == await world.engine.state(SESSION)

    asyncio.run(asyncio.wait_for(run(), DEADLINE_S))


@pytest.mark.anyio
async def test_a_run_that_resumes_three_times_without_progress_fails() -> None:
    entries, _ = await whole([["look"]], frozenset())
    journal = prefix(entries, 2)
    for _ in range(3):
        await die_right_after_resuming(journal)

    world = World(scripted([["look"]]), journal=journal, life="e")
    ended = await asyncio.wait_for(_resumed_end(world), DEADLINE_S)

    assert (ended.status, ended.error) == (RunStatus.FAILED, "resume_limit_reached")
    assert world.model.requests == []


async def die_right_after_resuming(journal: MemoryJournal) -> None:
    state = fold(SESSION, await journal.load(SESSION))
    (proposal,) = resume(state, 0)
    recorded = Recorded(session_id=SESSION, offset=state.next_offset, at_ms=0, run_id="run-1", entry=proposal.entry)
    after = advance(state, recorded)
    await journal.append(Transition(session_id=SESSION, entries=(recorded,), runs=(), session=after))


async def _resumed_end(world: World) -> e.RunEnded:
    await world.engine.recover([SESSION])
    return await world.finish()


@pytest.mark.anyio
async def test_messages_of_a_resumed_run_keep_every_result_beside_its_call() -> None:
    entries, _ = await whole([["look", "look"], ["note"]], frozenset())
    world = World(scripted([["look", "look"], ["note"]]), journal=prefix(entries, len(entries) - 1), life="b")

    await world.engine.recover([SESSION])
    await world.finish()

    loaded = await world.journal.load(SESSION)
    assert [type(recorded.entry).__name__ for recorded in loaded][-1] == "RunEnded"
    for request in world.model.requests:
        roles = [message.role for message in request.messages]
        assert all(before is Role.ASSISTANT for before, after in itertools.pairwise(roles) if after is Role.TOOL)
