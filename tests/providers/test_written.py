"""A conversation that goes on is written where it was left off, and the bytes are those of writing it anew."""

from __future__ import annotations

from collections.abc import Sequence

import httpx2
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheish.core.jsonvalue import JsonObject, encode
from kheish.core.messages import Generation, Message, Role, TextPart, user_text
from kheish.providers import written
from kheish.providers.chat_completions import ChatCompletionsProvider, build_body
from kheish.providers.drivers import Driver
from kheish.providers.protocol import ModelReply, ModelRequest
from kheish.providers.transport import ModelEndpoint
from kheish.providers.written import WrittenConversations, array


def _items(messages: Sequence[Message]) -> list[JsonObject]:
    """Some messages are worth two items, some none."""
    return [{"text": text} for message in messages for text in message.text.split()]


texts = st.lists(st.sampled_from(["a", "b c", "", "é"]), max_size=50)


@given(turns=st.lists(st.tuples(st.sampled_from(["s", "t", None]), texts, st.integers(0, 80)), max_size=12))
def test_what_is_written_is_what_was_said_whatever_came_before(
    turns: list[tuple[str | None, list[str], int]],
) -> None:
    conversations = WrittenConversations(_items)
    said: dict[str | None, tuple[Message, ...]] = {}
    for key, added, kept in turns:
        messages = (*said.get(key, ())[:kept], *map(user_text, added))
        said[key] = messages
        made = encode({"messages": array(encode([{"text": "system"}])[1:-1], conversations.items(key, messages))})
        assert made == encode({"messages": [{"text": "system"}, *_items(messages)]})


def test_a_turn_writes_only_what_is_new() -> None:
    seen: list[int] = []

    def counting(messages: Sequence[Message]) -> list[JsonObject]:
        seen.append(len(messages))
        return _items(messages)

    conversations = WrittenConversations(counting)
    long = tuple(user_text(f"word{number}") for number in range(100))
    for length in (98, 99, 100):
        conversations.items("s", long[:length])
    conversations.items("t", long)

    assert seen == [98, 1, 1, 100]


def test_what_was_written_longest_ago_is_forgotten_when_there_is_too_much() -> None:
    conversations = WrittenConversations(_items)
    large = tuple(user_text("x" * 100_000) for _ in range(40))
    for number in range(10):
        conversations.items(f"s{number}", large)

    kept = sum(len(one.items) for one in conversations._recent.values())
    assert kept == conversations._bytes <= written._MAX_BYTES
    assert list(conversations._recent)[-1] == "s9"
    assert orjson.loads(b"[" + conversations.items("s9", large) + b"]") == _items(large)


@pytest.mark.anyio
async def test_the_bytes_that_are_sent_are_those_of_the_whole_body() -> None:
    sent: list[bytes] = []

    async def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(request.content)
        return httpx2.Response(200, content=b'{"choices":[{"message":{"content":"ok"},"finish_reason":"stop"}]}')

    async with httpx2.AsyncClient(transport=httpx2.MockTransport(answer)) as client:
        endpoint = ModelEndpoint(provider="p", url="http://model/v1/chat/completions", client=client, headers={})
        provider = ChatCompletionsProvider(Driver.OPENAI_COMPATIBLE, endpoint)
        messages: tuple[Message, ...] = ()
        for number in range(70):
            said = Message(role=Role.ASSISTANT, parts=(TextPart(text=f"answer {number}"),))
            messages = (*messages, user_text(f"question {number}"), said)
            request = ModelRequest(
                model="m", system=("be", "brief"), messages=messages, tools=(), generation=Generation(), cache_key="s"
            )
            assert [type(item) for item in [item async for item in provider.stream(request)]][-1] is ModelReply
            assert sent[-1] == encode(build_body(request, Driver.OPENAI_COMPATIBLE))
