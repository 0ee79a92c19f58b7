"""What holds for every wire: any split of the bytes, cuts, keep-alives, JSON in place of a stream, errors."""

from __future__ import annotations

import json

import pytest

from kheish.core.messages import FinishReason, TextPart, ToolCallPart, Usage
from kheish.providers.protocol import ErrorKind, ProviderError
from kheish.providers.reply_reader import ReplyReader
from tests.fakes.model_wires import Answer, Call
from tests.providers.reading import calls, every_split, opaque, random_chunks, read, text
from tests.providers.wires import CHAT, GEMINI, MESSAGES, RESPONSES, WIRES, Wire

pytestmark = pytest.mark.anyio

ANSWER = Answer(
    text="Grüße, 世界 🌍!",
    thinking="a plan",
    calls=[
        Call(name="read_file", arguments={"path": "ä.txt", "deep": {"list": [1, 2.5, None]}}, id="call_a"),
        Call(name="list_files", id="call_b"),
    ],
    input_tokens=20,
    output_tokens=9,
    cached_tokens=8,
)
every_wire = pytest.mark.parametrize("wire", WIRES, ids=[wire.name for wire in WIRES])


@every_wire
async def test_a_whole_stream_gives_text_calls_usage_and_the_same_as_the_official_client(wire: Wire) -> None:
    data = b"".join(wire.frames(ANSWER))

    deltas, reply = read(wire.decoder(), [data])
    judged = await wire.judge(data)

    assert text(reply) == "".join(delta.text for delta in deltas) == judged.text == ANSWER.text
    assert calls(reply) == judged.calls
    assert len(calls(reply)) == 2
    assert all(part.call_id == "" for part in reply.parts if isinstance(part, ToolCallPart))
    assert reply.finish_reason is FinishReason.TOOL_CALLS
    assert reply.usage == Usage(input_tokens=20, output_tokens=9, cached_input_tokens=8)
    assert len(opaque(reply)) == 1
    kinds = [type(part) for part in reply.parts]
    assert kinds.index(TextPart) == 1  # what is private comes first, and is replayed first


@every_wire
def test_every_split_of_the_bytes_gives_the_same_reply(wire: Wire) -> None:
    """providers-and-routes case 10: inside a character, too."""
    data = b"".join(wire.frames(ANSWER))
    expected = read(wire.decoder(), [data])

    for chunks in every_split(data):
        assert read(wire.decoder(), chunks) == expected
    assert read(wire.decoder(), [data[at : at + 1] for at in range(len(data))]) == expected


@every_wire
def test_tokens_that_arrive_together_are_one_delta_and_each_alone_is_one_at_once(wire: Wire) -> None:
    frames = wire.frames(Answer(text="abcd", pieces=4))
    together, apart = ReplyReader(wire.decoder()), ReplyReader(wire.decoder())

    assert [delta.text for delta in together.feed(b"".join(frames))] == ["abcd"]
    texts = [[delta.text for delta in apart.feed(frame)] for frame in frames]
    assert [text for text in texts if text] == [["a"], ["b"], ["c"], ["d"]]


def test_texts_of_different_parts_are_never_joined() -> None:
    events: list[dict[str, object]] = [
        {"type": "content_block_start", "index": index, "content_block": {"type": "text", "text": ""}}
        for index in (0, 2)
    ]
    events += [
        {"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": piece}}
        for index, piece in ((0, "a"), (0, "b"), (2, "c"), (0, "d"), (2, "e"), (2, "f"))
    ]
    data = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    deltas = ReplyReader(MESSAGES.decoder()).feed(data.encode())

    assert [(delta.part, delta.text) for delta in deltas] == [(0, "ab"), (1, "c"), (0, "d"), (1, "ef")]


@every_wire
def test_comments_unknown_events_and_carriage_returns_change_nothing(wire: Wire) -> None:
    frames = wire.frames(ANSWER)
    expected = read(wire.decoder(), frames)
    noise = (
        b': keep-alive\n\nevent: new_thing\ndata: {"type": "new_thing", "index": 0}\n\nid: 7\nretry: 5\n\ndata: 7\n\n'
    )
    noisy = noise.join([b"", *frames])

    assert read(wire.decoder(), random_chunks(noisy, 1)) == expected
    for ending in (b"\r\n", b"\r"):
        data = noisy.replace(b"\n", ending)
        for seed in range(5):
            assert read(wire.decoder(), random_chunks(data, seed)) == expected
    assert read(wire.decoder(), [b"\xef\xbb\xbf" + noisy]) == expected


@every_wire
def test_a_stream_cut_at_any_frame_is_an_error_until_the_provider_said_its_last_word(wire: Wire) -> None:
    frames = wire.frames(ANSWER)
    _, expected = read(wire.decoder(), frames)
    last_words = {"chat": 3, "messages": 2, "responses": 1, "gemini": 1}[wire.name]

    for kept in range(len(frames) - last_words + 1):
        with pytest.raises(ProviderError, match="stream failed: cut short before the end of the reply") as caught:
            read(wire.decoder(), frames[:kept])
        assert (caught.value.kind, caught.value.retryable) == (ErrorKind.TRANSPORT, True)
    for kept in range(len(frames) - last_words + 1, len(frames) + 1):
        assert read(wire.decoder(), frames[:kept])[1].parts == expected.parts


@every_wire
def test_a_stream_cut_inside_any_frame_is_never_taken_for_whole(wire: Wire) -> None:
    data = b"".join(wire.frames(ANSWER))
    _, expected = read(wire.decoder(), [data])
    whole = 0

    for end in range(1, len(data)):
        try:
            _, reply = read(wire.decoder(), [data[:end]])
        except ProviderError:
            assert whole == 0
        else:
            whole += 1
            assert reply.parts == expected.parts
            assert reply.finish_reason == expected.finish_reason
    assert whole > 0


@every_wire
def test_a_json_document_in_place_of_a_stream_is_the_same_reply(wire: Wire) -> None:
    _, streamed = read(wire.decoder(), wire.frames(ANSWER))
    data = b"\n " + json.dumps(wire.document(ANSWER), indent=1).encode()

    deltas, reply = read(wire.decoder(), random_chunks(data, 3))

    assert reply == streamed
    assert [delta.text for delta in deltas] == [ANSWER.text]


@every_wire
def test_a_json_document_that_is_cut_or_is_an_error_is_an_error(wire: Wire) -> None:
    data = json.dumps(wire.document(ANSWER)).encode()

    with pytest.raises(ProviderError, match="cut short or not JSON"):
        read(wire.decoder(), [data[:-1]])
    with pytest.raises(ProviderError, match="no finished reply"):
        read(wire.decoder(), [b'{"id": "x"}'])
    with pytest.raises(ProviderError) as caught:
        read(wire.decoder(), [b'{"error": {"type": "overloaded_error", "message": "sk-SECRET"}}'])
    assert caught.value.kind is ErrorKind.SERVER_OVERLOADED
    assert "SECRET" not in caught.value.message


@every_wire
def test_an_error_in_the_middle_of_a_stream_is_classified_and_loses_its_words(wire: Wire) -> None:
    frames = wire.frames(ANSWER)

    with pytest.raises(ProviderError) as caught:
        read(wire.decoder(), [*frames[:4], wire.error_frame, *frames[4:]])

    assert (caught.value.kind, caught.value.retryable) == (ErrorKind.RATE_LIMITED, True)
    assert "SECRET" not in caught.value.message


@every_wire
def test_arguments_that_are_not_a_json_object_are_marked_and_empty(wire: Wire) -> None:
    for arguments, fault in (
        ("{oops", "the arguments are not valid JSON"),
        ("[1]", "the arguments are not a JSON object"),
    ):
        _, reply = read(wire.decoder(), wire.frames(Answer(calls=[Call(name="x", arguments=arguments)])))

        assert reply.parts == (
            ToolCallPart(call_id="", name="x", input={}, provider_call_id="call_1", invalid_input=fault),
        )


@every_wire
def test_an_event_that_is_not_json_and_one_that_never_ends_are_errors(wire: Wire) -> None:
    frames = wire.frames(ANSWER)

    with pytest.raises(ProviderError, match="unreadable: an event is not JSON"):
        read(wire.decoder(), [frames[0], b"data: {oops\n\n", *frames[1:]])
    reader = ReplyReader(wire.decoder(), max_bytes=1000)
    with pytest.raises(ProviderError, match="unreadable: an event is too large"):
        [reader.feed(b"data: " + b"x" * 100) for _ in range(20)]
    reader = ReplyReader(wire.decoder(), max_bytes=1000)
    with pytest.raises(ProviderError, match="unreadable: the reply is too large"):
        [reader.feed(b'{"x": "' + b"x" * 100) for _ in range(20)]


@every_wire
def test_half_a_surrogate_pair_and_broken_utf8_do_not_break_the_reply(wire: Wire) -> None:
    data = b"".join(wire.frames(Answer(text="ab", pieces=1)))
    broken = data.replace(b'"ab"', b'"a\\ud83db"')
    invalid = data.replace(b'"ab"', b'"a\xffb"')

    assert text(read(wire.decoder(), [broken])[1]) == "a\ufffdb"
    assert text(read(wire.decoder(), [invalid])[1]) == "a\ufffdb"


@pytest.mark.parametrize(
    ("wire", "finish", "reason"),
    [
        (CHAT, "length", FinishReason.MAX_TOKENS),
        (CHAT, "content_filter", FinishReason.BLOCKED),
        (CHAT, "brand_new", FinishReason.UNKNOWN),
        (CHAT, None, FinishReason.COMPLETED),
        (MESSAGES, "max_tokens", FinishReason.MAX_TOKENS),
        (MESSAGES, "model_context_window_exceeded", FinishReason.MAX_TOKENS),
        (MESSAGES, "stop_sequence", FinishReason.STOP_SEQUENCE),
        (MESSAGES, "refusal", FinishReason.BLOCKED),
        (MESSAGES, "pause_turn", FinishReason.UNKNOWN),
        (MESSAGES, None, FinishReason.COMPLETED),
        (RESPONSES, "max_output_tokens", FinishReason.MAX_TOKENS),
        (RESPONSES, "content_filter", FinishReason.BLOCKED),
        (RESPONSES, None, FinishReason.COMPLETED),
        (GEMINI, "MAX_TOKENS", FinishReason.MAX_TOKENS),
        (GEMINI, "SAFETY", FinishReason.BLOCKED),
        (GEMINI, "PROHIBITED_CONTENT", FinishReason.BLOCKED),
        (GEMINI, "BRAND_NEW", FinishReason.UNKNOWN),
        (GEMINI, None, FinishReason.COMPLETED),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_finish_reasons(wire: Wire, finish: str | None, reason: FinishReason) -> None:
    assert read(wire.decoder(), wire.frames(Answer(text="x", finish=finish)))[1].finish_reason is reason
