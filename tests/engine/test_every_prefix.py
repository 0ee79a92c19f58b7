"""Decision 1: cut the journal of any run at any entry, restart from the prefix, demand the same answer."""

from __future__ import annotations

import asyncio
import itertools
import re
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.core.messages import FinishReason, Role
from kheish.engine import entries as e
from kheish.engine.engine import resume
from kheish.engine.entries import OnInDoubt, OnRestart, Recorded, RunStatus
from kheish.engine.journal import MemoryJournal
from kheish.engine.ports import Proposal, Rule, Transition
from kheish.engine.state import RunState, advance, fold
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
    results,
    text_reply,
    turns_so_far,
)

pytestmark = pytest.mark.anyio

Script = list[list[str]]

QUESTIONS: JsonObject = {"questions": [{"id": "q", "question": "Which?", "options": [{"label": "a"}, {"label": "b"}]}]}
NEVER = ("touch", "poke")
TOOLS = [*NEVER, "pay", "look", "note", "ask_user_question", "nope"]
mixed = st.lists(st.sampled_from(TOOLS), min_size=1, max_size=3)
beside = st.lists(st.sampled_from(["poke", "pay", "look"]), min_size=2, max_size=4)
"""Calls that run side by side."""
turns = mixed | beside
scripts = st.lists(turns, min_size=0, max_size=3)


@dataclass(frozen=True, kw_only=True)
class Case:
    """What the model asks for, what the rules say, how the human answers, and what becomes of calls in doubt."""

    script: Script
    asks: frozenset[str] = frozenset()
    denies: frozenset[str] = frozenset()
    behavior: str = "allow"
    on_in_doubt: OnInDoubt = OnInDoubt.REPORT
    again: str = "allow"
    """What the human says when a call in doubt may run again."""

    @property
    def permissions(self) -> TablePermissions:
        return TablePermissions(self.asks, self.denies)


names = st.frozensets(st.sampled_from(["touch", "poke", "pay", "look", "note"]), max_size=2)
answers = st.sampled_from(["allow", "deny"])
cases = st.builds(
    Case,
    script=scripts,
    asks=names,
    denies=names,
    behavior=answers,
    on_in_doubt=st.sampled_from(OnInDoubt),
    again=answers,
)


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
            await world.engine.transition(SESSION, resolved(run, case))


def resolved(run: RunState, case: Case) -> Rule:
    def behavior(request: JsonObject) -> str:
        return case.again if request.get("in_doubt") else case.behavior

    made = tuple({"request_id": one["id"], "behavior": behavior(one)} for one in run.pending_approvals)
    return lambda state, now_ms: (Proposal(entry=e.ApprovalsResolved(resolutions=made), run_id=run.run_id),)


def answered(request_id: str) -> Rule:
    chosen = Answer(question_id="q", selected_option_ids=["option-1"])
    given_answer = UserQuestionResolution(request_id=request_id, answers=[chosen])
    return lambda state, now_ms: answer(state.run("run-1"), given_answer, now_ms)


async def whole(case: Case) -> tuple[World, list[Recorded], e.RunEnded]:
    world = World(scripted(case.script), permissions=case.permissions)
    await world.submit(on_in_doubt=case.on_in_doubt)
    ended = await live(world, case)
    return world, list(await world.journal.load(SESSION)), ended


async def after_death(case: Case, kept: list[Recorded], life: str = "b") -> tuple[World, e.RunEnded]:
    """Go on from what was kept, and check what holds after every death."""
    journal = prefix(kept, len(kept))
    world = World(scripted(case.script), journal=journal, permissions=case.permissions, life=life)
    await world.engine.recover([SESSION])
    ended = await live(world, case)

    replies = sum(isinstance(recorded.entry, e.ModelReplied) for recorded in kept)
    assert len(world.model.requests) == len(case.script) + 1 - replies, "a recorded model reply was requested again"
    assert ended.status is RunStatus.COMPLETED
    entries = [recorded.entry for recorded in await world.journal.load(SESSION)]
    check_consent(entries)
    for tool in (world.touch, world.poke):
        assert len(tool.executions) == len({str(one) for one in tool.executions}), "a call ran twice in one life"
    done = [entry.call_id for entry in entries if isinstance(entry, e.ToolFinished)]
    assert len(done) == len(set(done)), "a call has two results"
    return world, ended


def check_consent(entries: list[e.Entry]) -> None:
    """A call that is never repeated by itself has a second intent only after a human allowed it."""
    started: set[str] = set()
    asked: dict[str, str] = {}
    for entry in entries:
        match entry:
            case e.InDoubtAsked(requests=requests):
                asked.update((str(one["id"]), str(one["tool_call_id"])) for one in requests)
            case e.ApprovalsResolved(resolutions=resolutions):
                allowed = [str(one["request_id"]) for one in resolutions if one["behavior"] == "allow"]
                started -= {asked[request_id] for request_id in allowed if request_id in asked}
            case e.ToolIntended() if entry.name in NEVER:
                assert entry.call_id not in started, "a call that may have run was run again"
                started.add(entry.call_id)
            case _:
                pass


def in_doubt(kept: list[Recorded], *names: str) -> dict[str, e.ToolIntended]:
    """The calls of these tools that may have run, by call id."""
    found: dict[str, e.ToolIntended] = {}
    for recorded in kept:
        match recorded.entry:
            case e.ToolIntended() as intent if intent.name in names:
                found[intent.call_id] = intent
            case e.ToolFinished(call_id=call_id):
                found.pop(call_id, None)
            case _:
                pass
    return found


async def check_prefix(case: Case, first: World, kept: list[Recorded], expected: str) -> None:
    world, ended = await after_death(case, kept)

    doubtful = in_doubt(kept, *NEVER)
    ran = [*world.touch.executions, *world.poke.executions]
    asking = case.on_in_doubt is OnInDoubt.ASK
    for intent in doubtful.values():
        assert (intent.input in ran) == (asking and case.again == "allow")
    if doubtful and not (asking and case.again == "allow"):
        outputs = [str(result.output) for result in results(world.model.requests[0].messages)]
        assert sum("daemon_restart" in output for output in outputs) == len(doubtful)
    else:
        assert ended.output == expected
    for call_id in in_doubt(kept, "pay"):
        assert world.pay.keys[call_id] == first.pay.keys[call_id], "a keyed call came with another key"


@settings(max_examples=60, deadline=None)
@given(case=cases)
def test_a_run_cut_at_any_entry_ends_with_the_same_answer(case: Case) -> None:
    async def all_prefixes() -> None:
        first, entries, ended = await whole(case)
        assert ended.status is RunStatus.COMPLETED
        assert ended.output is not None
        for cut in range(1, len(entries)):
            await check_prefix(case, first, entries[:cut], ended.output)

    asyncio.run(asyncio.wait_for(all_prefixes(), 60))


@pytest.mark.parametrize("again", ["allow", "deny"])
@pytest.mark.parametrize("turn", [["touch"], ["poke", "look", "pay", "poke"], ["look", "touch", "note"]], ids="+".join)
async def test_a_daemon_that_dies_again_while_a_call_in_doubt_is_put_to_a_human_repeats_nothing_unasked(
    turn: list[str], again: str
) -> None:
    case = Case(script=[turn], on_in_doubt=OnInDoubt.ASK, again=again)
    _, entries, ended = await whole(case)
    for cut in range(1, len(entries)):
        second, _ = await after_death(case, entries[:cut])
        more = list(await second.journal.load(SESSION))
        for cut_again in range(cut + 1, len(more)):
            _, finally_ended = await after_death(case, more[:cut_again], life="c")
            if again == "allow":
                assert finally_ended.output == ended.output


@settings(max_examples=40, deadline=None)
@given(case=cases, on_restart=st.booleans())
def test_under_the_policy_interrupt_a_run_cut_at_any_entry_ends_where_it_ran_and_goes_on_where_it_waited(
    case: Case, on_restart: bool
) -> None:
    async def all_prefixes() -> None:
        _, entries, _ = await whole(case)
        if on_restart:
            asked = replace(entries[0].entry, on_restart=OnRestart.INTERRUPT)  # type: ignore[type-var]  # the input
            entries[0] = replace(entries[0], entry=asked)
        for cut in range(1, len(entries)):
            await check_interrupt(case, entries[:cut], OnRestart.RESUME if on_restart else OnRestart.INTERRUPT)

    asyncio.run(asyncio.wait_for(all_prefixes(), 60))


async def check_interrupt(case: Case, kept: list[Recorded], policy: OnRestart) -> None:
    ran = (active := fold(SESSION, kept).active) is not None and active.status is RunStatus.RUNNING
    journal = prefix(kept, len(kept))
    world = World(scripted(case.script), journal=journal, permissions=case.permissions, life="b", policy=policy)
    await world.engine.recover([SESSION])
    ended = await live(world, case)

    if not ran:
        assert ended.status is RunStatus.COMPLETED
        return
    assert (ended.status, ended.error) == (RunStatus.INTERRUPTED, "daemon restarted while the run was active")
    assert world.model.requests == []
    assert not any(tool.executions for tool in (world.touch, world.poke, world.pay, world.look, world.note))


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
    _, entries, _ = await whole(Case(script=[["look"]]))
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
    _, entries, _ = await whole(Case(script=[["look", "look"], ["note"]]))
    world = World(scripted([["look", "look"], ["note"]]), journal=prefix(entries, len(entries) - 1), life="b")

    await world.engine.recover([SESSION])
    await world.finish()

    loaded = await world.journal.load(SESSION)
    assert [type(recorded.entry).__name__ for recorded in loaded][-1] == "RunEnded"
    for request in world.model.requests:
        roles = [message.role for message in request.messages]
        assert all(before is Role.ASSISTANT for before, after in itertools.pairwise(roles) if after is Role.TOOL)
