"""Decision 1: cut the journal of any run at any entry, restart from the prefix, demand the same answer."""

from __future__ import annotations

import asyncio
import itertools
import re
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.core.messages import FinishReason, Role
from kheish.engine import entries as e
from kheish.engine.engine import resume
from kheish.engine.entries import Recorded, RunStatus
from kheish.engine.journal import MemoryJournal
from kheish.engine.ports import Rule, Transition
from kheish.engine.state import advance, fold
from kheish.providers.protocol import ModelReply, ModelRequest
from kheish.questions.models import Answer, UserQuestionResolution
from kheish.questions.rules import answer
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
    text_reply,
    turns_so_far,
)

pytestmark = pytest.mark.anyio

Script = list[list[str]]

QUESTIONS: JsonObject = {"questions": [{"id": "q", "question": "Which?", "options": [{"label": "a"}, {"label": "b"}]}]}
turns = st.lists(st.sampled_from(["touch", "look", "note", "ask_user_question", "nope"]), min_size=1, max_size=3)
scripts = st.lists(turns, min_size=0, max_size=3)


@dataclass(frozen=True, kw_only=True)
class Case:
    """What the model asks for, what the rules say, and how the human answers."""

    script: Script
    asks: frozenset[str] = frozenset()
    denies: frozenset[str] = frozenset()
    behavior: str = "allow"

    @property
    def permissions(self) -> TablePermissions:
        return TablePermissions(self.asks, self.denies)


names = st.frozensets(st.sampled_from(["touch", "look", "note"]), max_size=2)
cases = st.builds(Case, script=scripts, asks=names, denies=names, behavior=st.sampled_from(["allow", "deny"]))


def scripted(script: Script) -> Model:
    """Asks for the script's calls turn by turn, then answers with what the results say."""

    def model(request: ModelRequest) -> ModelReply:
        turn = turns_so_far(request.messages)
        if turn < len(script):
            return call_reply(*(_call(name, turn * 10 + at) for at, name in enumerate(script[turn])))
        said = [_said(result.output) for result in results(request.messages)]
        return text_reply("saw " + "; ".join(said))

    return model


def _call(name: str, number: int) -> tuple[str, JsonObject]:
    return name, QUESTIONS if name == "ask_user_question" else {"n": number}


def _said(output: JsonValue) -> str:
    """A result without the ids that a restarted daemon mints anew."""
    return re.sub(r"call-[a-z]-\d+", "call", str(output))


async def live(world: World, case: Case) -> e.RunEnded:
    """Go on until the run has ended, answering every wave of approvals and every question."""
    while True:
        run = (await world.quiet()).run("run-1")
        if run is None:
            return await world.ending()
        if run.pending_questions:
            request_id = str(run.pending_questions[0]["id"])
            await world.engine.transition(SESSION, answered(request_id))
        else:
            await world.engine.transition(SESSION, resolution("run-1", case.behavior))


def answered(request_id: str) -> Rule:
    chosen = Answer(question_id="q", selected_option_ids=["option-1"])
    given_answer = UserQuestionResolution(request_id=request_id, answers=[chosen])
    return lambda state, now_ms: answer(state.run("run-1"), given_answer, now_ms)


async def whole(case: Case) -> tuple[list[Recorded], e.RunEnded]:
    world = World(scripted(case.script), permissions=case.permissions)
    await world.submit()
    ended = await live(world, case)
    return list(await world.journal.load(SESSION)), ended


async def check_prefix(case: Case, entries: list[Recorded], cut: int, expected: str) -> None:
    kept = entries[:cut]
    world = World(scripted(case.script), journal=prefix(entries, cut), permissions=case.permissions, life="b")
    await world.engine.recover([SESSION])
    ended = await live(world, case)

    replies = sum(isinstance(recorded.entry, e.ModelReplied) for recorded in kept)
    assert len(world.model.requests) == len(case.script) + 1 - replies, "a recorded model reply was requested again"
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
        assert ended.output == expected


@settings(max_examples=60, deadline=None)
@given(case=cases)
def test_a_run_cut_at_any_entry_ends_with_the_same_answer(case: Case) -> None:
    async def all_prefixes() -> None:
        entries, ended = await whole(case)
        assert ended.status is RunStatus.COMPLETED
        assert ended.output is not None
        for cut in range(1, len(entries)):
            await check_prefix(case, entries, cut, ended.output)

    asyncio.run(asyncio.wait_for(all_prefixes(), 60))


async def test_a_continued_answer_cut_at_any_entry_is_the_same() -> None:
    def model(request: ModelRequest) -> ModelReply:
        said = [message.text for message in request.messages if message.role is Role.ASSISTANT]
        if len(said) < 2:
            return text_reply(f"part {len(said)}, ", FinishReason.MAX_TOKENS)
        return text_reply("the end")

    world = World(model)
    await world.submit()
    expected = (await world.finish()).output
    entries = list(await world.journal.load(SESSION))
    assert expected == "part 0, part 1, the end"
    for cut in range(1, len(entries)):
        again = World(model, journal=prefix(entries, cut), life="b")
        await again.engine.recover([SESSION])
        assert (await again.finish()).output == expected


async def test_unmet_requirements_cut_at_any_entry_cost_the_same_number_of_turns() -> None:
    requirements = ({"type": "workspace_file", "path": "a.md"},)
    world = World(lambda request: text_reply("no"))
    await world.submit(requirements=requirements)
    expected = await world.finish()
    entries = list(await world.journal.load(SESSION))
    for cut in range(1, len(entries)):
        again = World(lambda request: text_reply("no"), journal=prefix(entries, cut), life="b")
        await again.engine.recover([SESSION])
        assert await again.finish() == expected
        replies = sum(isinstance(recorded.entry, e.ModelReplied) for recorded in entries[:cut])
        assert len(again.model.requests) == 3 - replies


@settings(max_examples=25, deadline=None)
@given(script=scripts)
def test_folding_a_journal_gives_the_state_the_engine_had(script: Script) -> None:
    async def run() -> None:
        world = World(scripted(script))
        await world.submit()
        await live(world, Case(script=script))
        assert await world.fold() == await world.engine.state(SESSION)

    asyncio.run(asyncio.wait_for(run(), DEADLINE_S))


async def test_a_run_that_resumes_three_times_without_progress_fails() -> None:
    entries, _ = await whole(Case(script=[["look"]]))
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


async def test_messages_of_a_resumed_run_keep_every_result_beside_its_call() -> None:
    entries, _ = await whole(Case(script=[["look", "look"], ["note"]]))
    world = World(scripted([["look", "look"], ["note"]]), journal=prefix(entries, len(entries) - 1), life="b")

    await world.engine.recover([SESSION])
    await world.finish()

    loaded = await world.journal.load(SESSION)
    assert [type(recorded.entry).__name__ for recorded in loaded][-1] == "RunEnded"
    for request in world.model.requests:
        roles = [message.role for message in request.messages]
        assert all(before is Role.ASSISTANT for before, after in itertools.pairwise(roles) if after is Role.TOOL)
