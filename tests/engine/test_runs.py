"""The law of a run, step by step, over the in-memory journal."""

from __future__ import annotations

import asyncio

import pytest

from kheish.core.messages import FinishReason, Generation, ResponseFormat, ToolCallPart, Usage
from kheish.core.problems import Conflict
from kheish.engine import entries as e
from kheish.engine.entries import RunStatus
from kheish.engine.hands import Draining
from kheish.providers.drivers import Driver
from kheish.providers.prices import Price
from kheish.providers.protocol import ErrorKind, ModelReply, ModelRequest, ProviderError
from kheish.providers.terms import Backoff, RetryPolicy, RouteTerms
from tests.engine.world import (
    DEADLINE_S,
    SESSION,
    Model,
    TablePermissions,
    World,
    call_reply,
    resolution,
    results,
    stop,
    text_reply,
    turns_so_far,
)

pytestmark = pytest.mark.anyio


def one_call(name: str, count: int = 1) -> Model:
    def model(request: ModelRequest) -> ModelReply:
        if turns_so_far(request.messages) == 0:
            return call_reply(*((name, {"n": n}) for n in range(count)))
        return text_reply("done")

    return model


def say(text: str) -> Model:
    return lambda request: text_reply(text)


def kinds(world: World) -> list[list[str]]:
    return [[type(recorded.entry).__name__ for recorded in commit] for commit in world.journal.commits]


async def test_a_run_without_tools_takes_two_commits() -> None:
    world = World(say("hello"))
    await world.submit()
    ended = await world.finish()

    assert ended.output == "hello"
    assert kinds(world) == [["InputAccepted", "RunStarted"], ["ModelReplied", "RunEnded"]]


async def test_a_run_with_one_tool_takes_four_commits() -> None:
    world = World(one_call("touch"))
    await world.submit()
    await world.finish()

    assert kinds(world) == [
        ["InputAccepted", "RunStarted"],
        ["ModelReplied", "CallsDecided", "ToolIntended"],
        ["ToolFinished"],
        ["ModelReplied", "RunEnded"],
    ]


async def test_a_parallel_batch_commits_all_intents_at_once() -> None:
    world = World(one_call("look", 3))
    await world.submit()
    await world.finish()

    assert kinds(world)[1] == ["ModelReplied", "CallsDecided", *["ToolIntended"] * 3]
    assert kinds(world)[2] == ["ToolFinished"] * 3


async def test_a_sequential_batch_commits_each_result_with_the_next_intent() -> None:
    world = World(one_call("touch", 2))
    await world.submit()
    await world.finish()

    assert kinds(world)[2] == ["ToolFinished", "ToolIntended"]
    assert [given["n"] for given in world.touch.executions] == [0, 1]


async def test_no_intent_exists_while_a_call_of_the_message_waits_for_a_human() -> None:
    def model(request: ModelRequest) -> ModelReply:
        if turns_so_far(request.messages) == 0:
            return call_reply(("look", {"n": 1}), ("touch", {"n": 2}), ("touch", {"n": 3}))
        return text_reply("done")

    world = World(model, permissions=TablePermissions(frozenset({"touch"})))
    await world.submit()
    state = await world.quiet()

    assert state.active is not None
    assert state.active.status is RunStatus.WAITING_FOR_APPROVAL
    assert [request["input"] for request in state.active.pending_approvals] == [{"n": 2}, {"n": 3}]
    assert world.look.executions == world.touch.executions == []

    await world.allow_all()
    await world.finish()
    assert [given["n"] for given in world.touch.executions] == [2, 3]
    assert len(world.model.requests) == 2


async def test_a_human_may_replace_the_input_and_the_request_keeps_the_original() -> None:
    world = World(one_call("touch"), permissions=TablePermissions(frozenset({"touch"})))
    await world.submit()
    state = await world.quiet()
    await world.engine.transition(SESSION, resolution("run-1", "allow", updated_input={"n": 7}))
    await world.finish()

    assert world.touch.executions == [{"n": 7}]
    assert state.active is not None
    assert state.active.pending_approvals[0]["input"] == {"n": 0}


async def test_a_denial_reaches_the_model_with_its_reason() -> None:
    world = World(one_call("touch"), permissions=TablePermissions(frozenset({"touch"})))
    await world.submit()
    await world.quiet()
    await world.engine.transition(SESSION, resolution("run-1", "deny", reason="too risky"))
    await world.finish()

    (result,) = results(world.model.requests[1].messages)
    assert result.is_error
    assert "too risky" in str(result.output)
    assert world.touch.executions == []


async def test_a_rule_that_denies_explains_itself_to_the_model() -> None:
    world = World(one_call("touch"), permissions=TablePermissions(denies=frozenset({"touch"})))
    await world.submit()
    await world.finish()

    (result,) = results(world.model.requests[1].messages)
    assert "permission denied" in str(result.output)


async def test_a_call_with_bad_input_is_an_error_result_and_never_asks() -> None:
    def model(request: ModelRequest) -> ModelReply:
        if turns_so_far(request.messages) == 0:
            return call_reply(("touch", {"x": 1}), ("nope", {}))
        return text_reply("done")

    world = World(model, permissions=TablePermissions(frozenset({"touch", "nope"})))
    await world.submit()
    await world.finish()

    first, second = results(world.model.requests[1].messages)
    assert "n" in str(first.output)
    assert "tool not found" in str(second.output)
    assert kinds(world)[1] == ["ModelReplied", "CallsDecided", "ToolFinished", "ToolFinished"]


async def test_repeated_provider_ids_get_call_ids_of_their_own() -> None:
    world = World(one_call("look", 2))
    await world.submit()
    await world.finish()

    parts = [part for m in world.model.requests[1].messages for part in m.parts if isinstance(part, ToolCallPart)]
    assert len({part.call_id for part in parts}) == 2
    assert {part.provider_call_id for part in parts} == {"same"}


async def test_runs_of_a_session_execute_one_at_a_time_in_submission_order() -> None:
    world = World(one_call("touch"))
    world.touch.hold = asyncio.Event()
    await world.submit(run_id="run-1")
    await asyncio.wait_for(world.touch.started.wait(), DEADLINE_S)
    await world.submit(run_id="run-2")
    state = await world.submit(run_id="run-3")
    assert [run.run_id for run in state.queue] == ["run-2", "run-3"]

    state = await world.engine.transition(SESSION, stop("run-2"))
    assert [run.run_id for run in state.queue] == ["run-3"]
    assert (await world.ending("run-2")).status is RunStatus.CANCELLED

    world.touch.hold.set()
    assert (await world.finish("run-3")).status is RunStatus.COMPLETED
    assert (await world.ending("run-1")).status is RunStatus.COMPLETED


async def test_cancelling_a_running_tool_stops_it_and_frees_the_slot() -> None:
    world = World(one_call("touch"))
    world.touch.hold = asyncio.Event()
    await world.submit(run_id="run-1")
    await asyncio.wait_for(world.touch.started.wait(), DEADLINE_S)
    await world.engine.transition(SESSION, stop("run-1"))

    assert (await world.finish("run-1")).status is RunStatus.CANCELLED
    finished = [r.entry for r in await world.journal.load(SESSION) if isinstance(r.entry, e.ToolFinished)]
    assert [entry.is_error for entry in finished] == [True]
    world.touch.hold.set()
    await world.submit(run_id="run-2")
    assert (await world.finish("run-2")).status is RunStatus.COMPLETED
    assert all(len(results(request.messages)) >= 1 for request in world.model.requests[1:])


async def test_a_retryable_failure_is_tried_once_more_after_its_due_time() -> None:
    attempts = 0

    def model(request: ModelRequest) -> ModelReply:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise ProviderError("busy (529)", kind=ErrorKind.SERVER_OVERLOADED, retryable=True, retry_after_ms=4000)
        return text_reply("done")

    world = World(model)
    await world.submit()
    failed = await _until_entry(world, e.ModelFailed)
    assert failed.retry_at_ms == world.clock.now_ms() + 4000
    assert world.engine.timers.fire_due() <= 4.0
    assert attempts == 1

    world.clock.value += 4000
    world.engine.timers.fire_due()
    assert (await world.finish()).output == "done"


async def test_the_routes_retry_policy_says_how_often_and_when() -> None:
    def model(request: ModelRequest) -> ModelReply:
        raise ProviderError("overloaded (529)", kind=ErrorKind.SERVER_OVERLOADED, retryable=True)

    world = World(model)
    retry = RetryPolicy(attempts=4, backoff=Backoff.EXPONENTIAL, backoff_ms=10, jitter=0.5)
    world.model.terms = RouteTerms(driver=Driver.SCRIPTED, retry=retry)
    await world.submit()
    for number in range(1, 4):
        failed = await _until_entry(world, e.ModelFailed, attempt=number)
        assert failed.retry_at_ms == world.clock.now_ms() + retry.wait_ms(number, "run-1:1")
        world.clock.value += 10_000
        world.engine.timers.fire_due()
    ended = await world.finish()

    assert ended.error == "overloaded (529) (gave up after 4 attempts)"
    assert len(world.model.requests) == 4


async def test_two_failures_end_the_run_with_the_classified_error() -> None:
    def model(request: ModelRequest) -> ModelReply:
        raise ProviderError("overloaded (529)", kind=ErrorKind.SERVER_OVERLOADED, retryable=True, retry_after_ms=0)

    world = World(model)
    await world.submit()
    ended = await world.finish()

    assert ended.status is RunStatus.FAILED
    assert ended.error == "overloaded (529) (gave up after 2 attempts)"
    assert len(world.model.requests) == 2


async def test_an_unmet_requirement_costs_exactly_two_extra_turns_then_fails() -> None:
    world = World(say("I am done"))
    await world.submit(requirements=({"type": "workspace_file", "path": "out/a.md"},))
    ended = await world.finish()

    assert len(world.model.requests) == 3
    assert ended.status is RunStatus.FAILED
    assert ended.error == "run ended without satisfying completion requirements: workspace file out/a.md"
    assert world.model.requests[1].generation.tool_choice.type == "required"


async def test_a_reply_that_was_cut_off_is_continued_with_a_higher_ceiling() -> None:
    def model(request: ModelRequest) -> ModelReply:
        if len(request.messages) == 1:
            return text_reply("first half, ", FinishReason.MAX_TOKENS)
        return text_reply("second half")

    world = World(model)
    await world.submit()
    ended = await world.finish()

    assert ended.output == "first half, second half"
    assert world.model.requests[1].generation.max_output_tokens == 64_000


PLAN = Generation(
    response_format=ResponseFormat(
        type="structured_json", schema={"kind": "object", "fields": {"steps": {"kind": "array"}}}
    )
)


async def test_a_reply_in_the_form_that_was_asked_for_ends_the_run_as_it_is() -> None:
    world = World(say(' {"steps": [1, "two"]}'))
    await world.submit(generation=PLAN)

    assert (await world.finish()).output == ' {"steps": [1, "two"]}'


async def test_a_reply_in_another_form_fails_the_turn_and_its_tokens_count() -> None:
    world = World(say('{"secret": true}'))
    await world.submit(generation=PLAN)
    ended = await world.finish()

    assert ended.status is RunStatus.FAILED
    assert ended.error == "the reply does not have the form that was asked for: the reply lacks the field 'steps'"
    assert len(world.model.requests) == 1
    failed = next(r.entry for r in await world.journal.load(SESSION) if isinstance(r.entry, e.ModelFailed))
    assert (failed.kind, failed.usage) == ("structured_output_invalid", Usage(input_tokens=1, output_tokens=1))


async def test_the_form_is_checked_on_the_answer_and_not_on_what_comes_with_tool_calls() -> None:
    def model(request: ModelRequest) -> ModelReply:
        if turns_so_far(request.messages) == 0:
            return call_reply(("look", {"n": 1}))
        return text_reply('{"steps": []}')

    world = World(model)
    await world.submit(generation=PLAN)

    assert (await world.finish()).output == '{"steps": []}'


async def test_the_form_is_checked_on_a_continued_reply_as_a_whole() -> None:
    def model(request: ModelRequest) -> ModelReply:
        if len(request.messages) == 1:
            return text_reply('{"steps"', FinishReason.MAX_TOKENS)
        return text_reply(": []}")

    world = World(model)
    await world.submit(generation=PLAN)

    assert (await world.finish()).output == '{"steps": []}'


async def test_a_reply_that_is_cut_off_again_and_again_fails_the_run() -> None:
    world = World(lambda request: text_reply("x", FinishReason.MAX_TOKENS))
    await world.submit()
    ended = await world.finish()

    assert ended.error == "model output exceeded max tokens after recovery"
    assert len(world.model.requests) == 4


async def test_the_turn_ceiling_ends_an_endless_run() -> None:
    world = World(lambda request: call_reply(("look", {"n": 1})))
    await world.submit(max_turns=3)
    ended = await world.finish()

    assert (ended.status, len(world.model.requests)) == (RunStatus.FAILED, 3)
    assert "3 turns" in str(ended.error)


async def test_a_rule_that_refuses_changes_nothing() -> None:
    world = World(say("x"))

    def refuse(state: object, now_ms: int) -> tuple[()]:
        raise Conflict("not now")

    with pytest.raises(Conflict):
        await world.engine.transition(SESSION, refuse)
    assert world.journal.commits == []


async def test_draining_leaves_the_run_to_be_resumed_and_records_nothing() -> None:
    world = World(one_call("look"))
    world.look.hold = asyncio.Event()
    await world.submit()
    await asyncio.wait_for(world.look.started.wait(), DEADLINE_S)
    await asyncio.wait_for(world.engine.drain(0.01), DEADLINE_S)

    with pytest.raises(Draining):
        await world.submit(run_id="run-2")
    again = World(one_call("look"), journal=world.journal, life="b")
    await again.engine.recover([SESSION])
    assert (await again.finish()).status is RunStatus.COMPLETED
    assert len(world.model.requests) == 1


async def test_an_error_in_an_adapter_fails_its_run_and_not_the_session() -> None:
    def model(request: ModelRequest) -> ModelReply:
        if len(request.messages) == 1:
            raise RuntimeError("bug with sk-secret inside")
        return text_reply("fine")

    world = World(model)
    await world.submit(run_id="run-1")
    ended = await world.finish("run-1")
    await world.submit(run_id="run-2")

    assert ended.status is RunStatus.FAILED
    assert "sk-secret" not in str(ended.error)
    assert (await world.finish("run-2")).output == "fine"


async def test_usage_adds_up_over_the_turns() -> None:
    world = World(one_call("look"), permissions=TablePermissions(frozenset({"look"})))
    await world.submit()
    state = await world.quiet()

    assert state.active is not None
    assert state.active.usage == Usage(input_tokens=1, output_tokens=1)


async def test_every_turn_costs_what_the_route_says_and_a_fallback_costs_its_own_price() -> None:
    def model(request: ModelRequest) -> ModelReply:
        if request.model == "m" and len(request.messages) > 1:
            raise ProviderError("busy", kind=ErrorKind.SERVER_OVERLOADED, retryable=True, retry_after_ms=0)
        return text_reply("done") if len(request.messages) > 1 else call_reply(("look", {"n": 1}))

    world = World(model)
    dear = Price(input=1e6, output=2e6, cached_input=0, cache_write=0)
    cheap = Price(input=10e6, output=20e6, cached_input=0, cache_write=0)
    world.model.terms = RouteTerms(driver=Driver.SCRIPTED, prices={"m": dear, "other": cheap})
    await world.submit(generation=Generation(fallback_model="other"))
    await world.finish()

    replies = [r.entry for r in await world.journal.load(SESSION) if isinstance(r.entry, e.ModelReplied)]
    assert [reply.usage.cost_usd for reply in replies] == [3.0, 30.0]


async def test_emitted_output_travels_in_the_commit_of_its_result() -> None:
    world = World(one_call("note"))
    await world.submit()
    await world.finish()

    (finished,) = [r.entry for r in await world.journal.load(SESSION) if isinstance(r.entry, e.ToolFinished)]
    assert finished.effects == ({"type": "output", "content": "noted", "parts": [], "artifacts": []},)


async def _until_entry(world: World, kind: type[e.ModelFailed], *, attempt: int = 1) -> e.ModelFailed:
    deadline = asyncio.get_running_loop().time() + DEADLINE_S
    while asyncio.get_running_loop().time() < deadline:
        for recorded in await world.journal.load(SESSION):
            if isinstance(recorded.entry, kind) and recorded.entry.attempt == attempt:
                return recorded.entry
        await asyncio.sleep(0)
    raise AssertionError(f"no {kind.__name__} was recorded")


async def test_a_question_that_expires_cancels_the_run_and_names_the_request() -> None:
    questions = [{"question": "Which?", "options": [{"label": "a"}, {"label": "b"}]}]

    def model(request: ModelRequest) -> ModelReply:
        return call_reply(("ask_user_question", {"questions": questions, "expires_after_ms": 500}))  # type: ignore[dict-item]

    world = World(model)
    await world.submit()
    state = await world.quiet()
    assert state.active is not None
    (request,) = state.active.pending_questions

    again = World(model, journal=world.journal, life="b", clock=world.clock)
    world.clock.value += 501
    await again.engine.recover([SESSION])
    ended = await again.finish()

    assert ended.status is RunStatus.CANCELLED
    assert str(request["id"]) in str(ended.error)
