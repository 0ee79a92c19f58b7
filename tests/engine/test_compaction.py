"""Long runs over the real engine: every request fits, and a crash at any entry changes nothing."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Callable

import pytest

from kheish.core.jsonvalue import JsonObject
from kheish.core.messages import Message, ToolCallPart
from kheish.engine import entries as e
from kheish.engine.context import Transcript
from kheish.engine.engine import RECENT_SESSIONS
from kheish.engine.entries import Recorded, RouteRef, RunStatus
from kheish.engine.session_memory import SUMMARY_REQUEST
from kheish.engine.tokens import message_tokens, standing_tokens
from kheish.providers.protocol import ErrorKind, ModelReply, ModelRequest, ProviderError
from tests.engine.world import (
    DEADLINE_S,
    SESSION,
    Model,
    World,
    call_reply,
    prefix,
    results,
    stop,
    submission,
    text_reply,
)

pytestmark = pytest.mark.anyio

WINDOW = 8_000
SMALL = RouteRef(route_id="r", driver="function", model="m", context_window_tokens=WINDOW)
STEPS = 30
PLAN: JsonObject = {"todos": [{"id": "ledger", "content": "count all the way", "completed": False}]}
_NUMBER = re.compile(r"reached (\d+)")


def asks_for_summary(request: ModelRequest) -> bool:
    return request.messages[-1].text == SUMMARY_REQUEST


def counting(*, plan: bool, steps: int = STEPS) -> Model:
    """Looks at 1, 2, 3 ... one by one; where it stands it reads from its last call, or from its own summary."""

    def model(request: ModelRequest) -> ModelReply:
        reached = reached_in(request.messages)
        if asks_for_summary(request):
            return text_reply(f"The count has reached {reached}.")
        if plan and reached == 0 and not results(request.messages):
            return call_reply(("todo_write", PLAN))
        if reached < steps:
            return call_reply(("look", {"n": reached + 1}))
        known = "count all the way" in "".join(str(message) for message in request.messages)
        return text_reply(f"counted to {reached}, plan {'known' if known else 'unknown'}")

    return model


def reached_in(messages: tuple[Message, ...]) -> int:
    calls = [
        part for message in messages for part in message.parts if isinstance(part, ToolCallPart) and part.name == "look"
    ]
    if calls:
        return int(str(calls[-1].input["n"]))
    said = [found for message in messages for found in _NUMBER.findall(message.text)]
    return int(said[-1]) if said else 0


def new_world(model: Model, **options: object) -> World:
    world = World(model, **options)  # type: ignore[arg-type]  # named by the test
    world.look.padding = "x" * 1_600
    return world


def size(request: ModelRequest) -> int:
    return sum(map(message_tokens, request.messages)) + standing_tokens(request.system, request.tools)


def kinds(entries: list[Recorded]) -> list[str]:
    relief = (e.Microcompacted, e.Snipped, e.Compacted)
    return [type(recorded.entry).__name__ for recorded in entries if isinstance(recorded.entry, relief)]


async def journal_of(world: World) -> list[Recorded]:
    return list(await world.journal.load(SESSION))


@pytest.mark.parametrize("plan", [True, False])
async def test_a_long_run_stays_under_the_window_in_every_request(plan: bool) -> None:
    world = new_world(counting(plan=plan, steps=100))
    await world.submit("count", route=SMALL)
    ended = await world.finish()

    assert ended.output == f"counted to 100, plan {'known' if plan else 'unknown'}"
    assert max(map(size, world.model.requests)) < WINDOW
    entries = await journal_of(world)
    assert kinds(entries).count("Compacted") >= 2
    strategies = {r.entry.strategy for r in entries if isinstance(r.entry, e.Compacted)}
    assert strategies == {"session_memory" if plan else "model_driven"}
    raw = [r.entry.output for r in entries if isinstance(r.entry, e.ToolFinished) and r.entry.name == "look"]
    assert all(isinstance(output, dict) and output["padding"] == "x" * 1_600 for output in raw)
    for request in world.model.requests:
        check_pairs(request.messages)
        assert "count" in [message.text for message in request.messages]


def check_pairs(messages: tuple[Message, ...]) -> None:
    for before, after in itertools.pairwise(messages):
        asked = [call.call_id for call in before.tool_calls]
        assert asked == [result.call_id for result in results([after])]


@pytest.mark.parametrize("plan", [True, False])
async def test_a_compacted_run_cut_at_any_entry_ends_with_the_same_answer(plan: bool) -> None:
    world = new_world(counting(plan=plan))
    await world.submit("count", route=SMALL)
    expected = (await world.finish()).output
    entries = await journal_of(world)
    assert {"Microcompacted", "Compacted"} <= set(kinds(entries))

    for cut in range(1, len(entries)):
        again = new_world(counting(plan=plan), journal=prefix(entries, cut), life="b")
        await again.engine.recover([SESSION])
        assert (await again.finish()).output == expected
        kept = [recorded.entry for recorded in entries[:cut]]
        replies = sum(isinstance(entry, e.ModelReplied) for entry in kept)
        asked = [request for request in again.model.requests if not asks_for_summary(request)]
        assert len(asked) == STEPS + 1 + plan - replies, "a recorded model reply was requested again"
        assert max(map(size, again.model.requests), default=0) < WINDOW
        # The relief that was recorded is not made again: the rest of the journal has the rest of it.
        assert kinds(await journal_of(again)) == kinds(entries)


async def test_the_journal_folds_to_the_window_the_engine_keeps() -> None:
    world = new_world(counting(plan=True))
    await world.submit("count", route=SMALL)
    await world.finish()
    await world.quiet()

    folded = Transcript()
    for recorded in await journal_of(world):
        folded.extend(recorded)
    kept = world.engine._recent[SESSION].transcript
    assert folded == kept
    assert kept.generation == kinds(await journal_of(world)).count("Compacted")


async def test_relief_without_a_model_costs_no_commit() -> None:
    world = new_world(counting(plan=True))
    await world.submit("count", route=SMALL)
    await world.finish()

    # Accepted; one for each reply and its intents, one for each result; the end.
    assert len(world.journal.commits) == 2 * (STEPS + 1) + 2
    assert len(kinds(await journal_of(world))) >= 2


async def test_a_window_that_is_large_enough_is_never_touched() -> None:
    world = new_world(counting(plan=True))
    await world.submit("count", route=RouteRef(route_id="r", driver="function", model="claude-x"))
    await world.finish()
    assert kinds(await journal_of(world)) == []


async def test_where_the_model_cannot_summarise_the_facts_of_the_session_do() -> None:
    def model(request: ModelRequest) -> ModelReply:
        if asks_for_summary(request):
            raise ProviderError("busy", kind=ErrorKind.SERVER_OVERLOADED, retryable=True)
        return inner(request)

    inner = counting(plan=False, steps=60)
    world = new_world(model)
    await world.submit("count", route=SMALL)
    assert (await world.finish()).output == "counted to 60, plan unknown"
    made = [r.entry for r in await journal_of(world) if isinstance(r.entry, e.Compacted)]
    assert {entry.strategy for entry in made} == {"session_memory"}


async def test_the_tokens_of_a_summary_are_the_runs_tokens() -> None:
    world = new_world(counting(plan=False, steps=60))
    await world.submit("count", route=SMALL)
    await world.finish()
    asked = len(world.model.requests)
    last = world.journal.commits[-1]
    assert isinstance(last[-1].entry, e.RunEnded)
    entries = await journal_of(world)
    usages = [r.entry.usage for r in entries if isinstance(r.entry, e.ModelReplied | e.Compacted)]
    assert sum(usage.input_tokens for usage in usages) == asked


async def test_a_run_cancelled_while_the_model_summarises_ends_at_once() -> None:
    holding = asyncio.Event()
    world = new_world(counting(plan=False))
    stream = world.model.stream

    async def slow(request: ModelRequest) -> object:
        if asks_for_summary(request):
            holding.set()
            await asyncio.Event().wait()
        async for item in stream(request):
            yield item

    world.model.stream = slow  # type: ignore[method-assign,assignment]  # the same provider, slower
    await world.submit("count", route=SMALL)
    await asyncio.wait_for(holding.wait(), DEADLINE_S)
    await world.engine.transition(SESSION, stop("run-1"))

    assert (await world.finish()).status is RunStatus.CANCELLED
    assert "Compacted" not in kinds(await journal_of(world))


# Overflow


def overflowing(times: int, inner: Model, *, at: Callable[[ModelRequest], bool] = lambda request: True) -> Model:
    left = iter(range(times))

    def model(request: ModelRequest) -> ModelReply:
        if at(request) and next(left, None) is not None:
            raise ProviderError("too long", kind=ErrorKind.CONTEXT_WINDOW_EXCEEDED, retryable=False, status=413)
        return inner(request)

    return model


async def test_a_provider_that_overflows_twice_still_gets_a_request_it_can_take() -> None:
    inner = counting(plan=True, steps=12)
    world = new_world(overflowing(2, inner, at=lambda request: reached_in(request.messages) == 8))
    await world.submit("count")
    ended = await world.finish()

    assert ended.output == "counted to 12, plan known"
    assert kinds(await journal_of(world)) == ["Microcompacted", "Snipped", "Microcompacted", "Compacted"]
    sizes = [size(request) for request in world.model.requests]
    refused = next(at for at, after in enumerate(itertools.pairwise(sizes)) if after[1] < after[0])
    assert sizes[refused] > sizes[refused + 1] * 1.5
    assert sizes[refused + 1] > sizes[refused + 2]


async def test_an_overflow_on_the_very_first_message_is_asked_again_twice() -> None:
    world = World(overflowing(2, lambda request: text_reply("hello")))
    await world.submit("hi")
    assert (await world.finish()).output == "hello"
    assert kinds(await journal_of(world)) == ["Snipped", "Compacted"]


async def test_a_third_overflow_of_one_call_ends_the_run() -> None:
    world = World(overflowing(3, lambda request: text_reply("hello")))
    await world.submit("hi")
    ended = await world.finish()
    assert (ended.status, ended.error) == (RunStatus.FAILED, "too long")
    assert len(world.model.requests) == 3


async def test_overflows_of_different_calls_are_counted_apart() -> None:
    seen: set[int] = set()

    def first_of_each(request: ModelRequest) -> bool:
        reached = reached_in(request.messages)
        return reached not in seen and not seen.add(reached)  # type: ignore[func-returns-value]

    world = new_world(overflowing(99, counting(plan=True, steps=6), at=first_of_each))
    await world.submit("count")
    assert (await world.finish()).output == "counted to 6, plan known"


async def test_a_busy_provider_after_an_overflow_is_asked_again_as_ever() -> None:
    answers = iter([ErrorKind.CONTEXT_WINDOW_EXCEEDED, ErrorKind.SERVER_OVERLOADED])

    def model(request: ModelRequest) -> ModelReply:
        kind = next(answers, None)
        if kind is None:
            return text_reply("hello")
        raise ProviderError("no", kind=kind, retryable=kind is ErrorKind.SERVER_OVERLOADED, retry_after_ms=0)

    world = World(model)
    await world.submit("hi")
    assert (await world.finish()).output == "hello"


async def test_a_run_with_overflows_cut_at_any_entry_ends_with_the_same_answer() -> None:
    def too_large(request: ModelRequest) -> bool:
        return size(request) > 5_000

    world = new_world(overflowing(99, counting(plan=True, steps=20), at=too_large))
    await world.submit("count")
    expected = (await world.finish()).output
    entries = await journal_of(world)
    assert "Snipped" in kinds(entries)
    for cut in range(1, len(entries)):
        model = overflowing(99, counting(plan=True, steps=20), at=too_large)
        again = new_world(model, journal=prefix(entries, cut), life="b")
        await again.engine.recover([SESSION])
        assert (await again.finish()).output == expected


# Memory


async def test_large_idle_sessions_leave_the_cache_before_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kheish.engine.engine.RECENT_BYTES", 50_000)
    world = World(lambda request: text_reply("ok"))
    for number in range(8):
        rule = submission("x" * 10_000, f"run-{number}")
        await world.engine.transition(f"s-{number}", rule)
        await asyncio.wait_for(world.engine.stopped(f"s-{number}", f"run-{number}"), DEADLINE_S)
        await asyncio.wait_for(world.engine.quiescent(f"s-{number}"), DEADLINE_S)

    assert 1 <= len(world.engine._recent) < 8 < RECENT_SESSIONS
    kept = sum(memory.transcript.memory_bytes for memory in world.engine._recent.values())
    assert kept == world.engine._recent_bytes
    assert kept <= 50_000
