"""A conversation that goes on is written where it was left off, and the bytes are those of writing it anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheish.core.jsonvalue import JsonObject, JsonValue, encode
from kheish.core.messages import Generation, Message, Role, TextPart, ToolSpec, user_text
from kheish.providers import anthropic, google, written
from kheish.providers.chat_completions import ChatCompletionsProvider, build_body
from kheish.providers.drivers import Driver
from kheish.providers.exchanges import Exchange, Target
from kheish.providers.http1_pool import Http1Client
from kheish.providers.protocol import ModelReply, ModelRequest
from kheish.providers.transport import ModelEndpoint
from kheish.providers.written import WrittenConversations, WrittenRequests


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
        assert b"[" + conversations.items(key, messages) + b"]" == encode(_items(messages))


requests = st.builds(
    ModelRequest,
    model=st.sampled_from(["m", "n"]),
    system=st.sampled_from([(), ("be",), ("be", "brief")]),
    messages=st.lists(st.builds(user_text, texts.map(" ".join)), max_size=3).map(tuple),
    tools=st.sampled_from([(), (ToolSpec(name="t", description="\0 \\u0000", input_schema={"type": "object"}),)]),
    generation=st.sampled_from([Generation(), Generation(temperature=0.5), Generation(max_output_tokens=7)]),
    cache_key=st.sampled_from(["s", None]),
)


ENDPOINT = ModelEndpoint(provider="p", url="http://model/{model}", client=Http1Client(), headers={})
CHAT = Driver.OPENAI_COMPATIBLE


@given(asked=st.lists(requests, max_size=12))
def test_a_body_is_the_same_whatever_was_asked_before(asked: list[ModelRequest]) -> None:
    chat, messages, gemini = (
        ChatCompletionsProvider(CHAT, ENDPOINT),
        anthropic.AnthropicProvider(ENDPOINT),
        google.GoogleProvider(ENDPOINT),
    )
    for request in asked:
        assert chat._written.content(request) == encode(build_body(request, CHAT))
        assert messages._written.content(request) == encode(anthropic.build_body(request))
        assert gemini._written.content(request) == encode(google.build_body(request))


def test_what_surrounds_a_conversation_is_written_once() -> None:
    frames: list[ModelRequest] = []

    def frame(request: ModelRequest, items: list[JsonValue]) -> JsonObject:
        frames.append(request)
        return {"messages": items}

    asked = ModelRequest(model="m", system=(), messages=(user_text("a"),), tools=(), generation=Generation())
    requests = WrittenRequests("p", frame, lambda request: encode(_items(request.messages))[1:-1])
    for number in range(5):
        assert requests.content(replace(asked, cache_key=str(number))) == b'{"messages":[{"text":"a"}]}'

    assert len(frames) == 1


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


def test_many_short_conversations_are_not_all_remembered() -> None:
    conversations = WrittenConversations(_items)
    messages = tuple(map(user_text, "a" * written._SHORT))
    for number in range(300):
        conversations.items(f"s{number}", messages)

    assert list(conversations._recent) == [f"s{number}" for number in range(300 - written._MOST, 300)]
    assert conversations._bytes == sum(len(one.items) for one in conversations._recent.values())


class _Keeping:
    """A client whose server answers every call with the same words, and that keeps what was sent."""

    status, ended = 200, False

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self._coming = b""

    def target(self, url: str, headers: Mapping[str, str]) -> Target:
        return self

    async def send(self, content: bytes) -> Exchange:
        self.sent.append(content)
        self._coming = b'{"choices":[{"message":{"content":"ok"},"finish_reason":"stop"}]}'
        return self

    def header(self, name: str) -> str | None:
        return None

    async def read(self) -> bytes:
        coming, self._coming = self._coming, b""
        return coming

    async def aclose(self) -> None:
        pass


@pytest.mark.anyio
async def test_the_bytes_that_are_sent_are_those_of_the_whole_body() -> None:
    client = _Keeping()
    async with aclosing(client):
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
            assert client.sent[-1] == encode(build_body(request, Driver.OPENAI_COMPATIBLE))
