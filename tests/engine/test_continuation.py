"""From which reply a model call may go on, and when its provider no longer knows the window."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kheish.core.messages import FinishReason, Generation, Part, TextPart, ToolCallPart, Usage
from kheish.engine import entries as e
from kheish.engine.context import Transcript
from kheish.engine.entries import Entry, Recorded, RouteRef
from kheish.providers.protocol import Continuation, ModelReply, ModelRequest
from tests.engine.world import World, call_reply, text_reply

ROUTE = RouteRef(route_id="r", driver="openai", model="m")
ACCEPTED = e.InputAccepted(
    agent_id="a", kind="input", envelope={}, text="go", route=ROUTE, generation=Generation(), summary={}
)


def replied(*parts: Part, finish: FinishReason = FinishReason.COMPLETED, id: str | None = "resp-1") -> e.ModelReplied:
    return e.ModelReplied(
        turn=1, message_id="m-1", parts=parts, finish_reason=finish, usage=Usage(input_tokens=1), response_id=id
    )


def call(call_id: str, provider_call_id: str | None) -> ToolCallPart:
    return ToolCallPart(call_id=call_id, name="look", input={}, provider_call_id=provider_call_id)


def after(*entries: Entry) -> Transcript:
    transcript = Transcript()
    for offset, entry in enumerate((ACCEPTED, e.RunStarted(), *entries), start=1):
        transcript.extend(Recorded(session_id="s", offset=offset, at_ms=offset, run_id="run-1", entry=entry))
    return transcript


def test_a_whole_reply_covers_everything_up_to_itself() -> None:
    first = after(replied(TextPart(text="a")))
    assert first.continuation == (ROUTE, Continuation(response_id="resp-1", known_messages=2))

    answered = after(
        replied(call("c-1", "p-1"), finish=FinishReason.TOOL_CALLS),
        e.ToolFinished(call_id="c-1", name="look", output="x"),
        e.FollowedUp(reason="completion_requirements", text="more"),
    )
    assert answered.continuation == (ROUTE, Continuation(response_id="resp-1", known_messages=2))
    assert [message.role for message in answered.messages()[2:]] == ["tool", "user"]
    again = after(replied(TextPart(text="a")), e.ModelFailed(turn=2, attempt=1, kind="unknown", message="x"))
    assert again.continuation == first.continuation


@pytest.mark.parametrize(
    "reply",
    [
        replied(TextPart(text="a"), id=None),
        replied(TextPart(text="a"), finish=FinishReason.MAX_TOKENS),
        replied(TextPart(text="a"), finish=FinishReason.UNKNOWN),
        replied(call("c-1", None), finish=FinishReason.TOOL_CALLS),
        replied(call("c-1", "same"), call("c-2", "same"), finish=FinishReason.TOOL_CALLS),
    ],
)
def test_a_reply_that_is_not_whole_or_whose_calls_cannot_be_told_apart_is_not_gone_on_from(reply: Entry) -> None:
    assert after(replied(TextPart(text="before"), id="resp-0"), reply).continuation is None


@pytest.mark.parametrize(
    "relief",
    [
        e.Microcompacted(turn=2, cleared_tool_ids=("c-1",), tokens_freed=1),
        e.Snipped(turn=2, messages_removed=1, tokens_freed=1, new_head_offset=2, note="gone"),
        e.Compacted(
            turn=2,
            trigger="auto",
            strategy="model_driven",
            pre_tokens=2,
            post_tokens=1,
            window_generation=1,
            compacted_until_offset=2,
            title="t",
            summary="what was said",
            restoration={},
        ),
    ],
)
def test_no_continuation_crosses_a_smaller_window(relief: Entry) -> None:
    """Rule 27 of events-and-recovery: never across a compaction, and no more across what leads to one."""
    before = (
        replied(call("c-1", "p-1"), finish=FinishReason.TOOL_CALLS),
        e.ToolFinished(call_id="c-1", name="look", output="x" * 900),
    )
    assert after(*before).continuation is not None

    made = after(*before, relief)
    assert made.continuation is None
    fresh = replied(TextPart(text="b"), id="resp-2")
    made.extend(Recorded(session_id="s", offset=99, at_ms=99, run_id="run-1", entry=fresh))
    assert made.continuation == (ROUTE, Continuation(response_id="resp-2", known_messages=len(made.messages())))


@pytest.mark.anyio
async def test_the_next_run_goes_on_from_the_last_reply_unless_it_has_another_route() -> None:
    numbers = iter(range(1, 9))

    def model(request: ModelRequest) -> ModelReply:
        return replace(text_reply("done"), response_id=f"resp-{next(numbers)}")

    world = World(model)
    for run in ("run-1", "run-2"):
        await world.submit(run_id=run)
        await world.finish(run)
    again = World(model, journal=world.journal, life="b")  # a restart: what is known is in the journal
    await again.submit(run_id="run-3")
    await again.finish("run-3")

    continued = [made.continues for made in (*world.model.requests, *again.model.requests)]
    assert continued == [
        None,
        Continuation(response_id="resp-1", known_messages=2),
        Continuation(response_id="resp-2", known_messages=4),
    ]
    assert all(len(made.messages) == 2 * n + 1 for n, made in enumerate((*world.model.requests, *again.model.requests)))


@pytest.mark.anyio
async def test_repeated_provider_ids_of_parallel_calls_mean_the_whole_input() -> None:
    def model(request: ModelRequest) -> ModelReply:
        if len(request.messages) > 1:
            return text_reply("done")
        return replace(call_reply(("look", {"n": 1}), ("look", {"n": 2})), response_id="resp-1")

    world = World(model)
    await world.submit()
    await world.finish()

    assert [made.continues for made in world.model.requests] == [None, None]
