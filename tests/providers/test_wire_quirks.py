"""What single providers do differently, one case each."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kheish.core.messages import FinishReason, OpaquePart, TextPart, Usage
from kheish.providers.protocol import ErrorKind, ModelReply, ProviderError, TextDelta
from kheish.providers.wire import call_part
from tests.providers.reading import calls, opaque, read, text
from tests.providers.wires import CHAT, MESSAGES, RESPONSES, Wire


def heard(wire: Wire, *events: Any) -> tuple[list[TextDelta], ModelReply]:
    return read(wire.decoder(), [f"data: {json.dumps(event)}\n\n".encode() for event in events])


def chat(*deltas: Any, finish: str | None = "tool_calls", **rest: Any) -> ModelReply:
    chunks = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    _, reply = heard(CHAT, *chunks, {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}], **rest})
    return reply


def piece(index: int | None = None, id: str | None = None, name: str | None = None, arguments: Any = None) -> Any:
    made: dict[str, Any] = {"function": {"name": name, "arguments": arguments}, "id": id, "index": index}
    return {"tool_calls": [made]}


A, B = ("a", {"x": 1}), ("b", {"x": 2})
ONE, TWO = '{"x": 1}', '{"x": 2}'


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        # the same id twice, told apart by index
        ([piece(0, "call", "a", ONE), piece(1, "call", "b", TWO)], [(*A, "call"), (*B, "call")]),
        # every call is number 0, told apart by id
        ([piece(0, "c1", "a", ONE), piece(0, "c2", "b", TWO)], [(*A, "c1"), (*B, "c2")]),
        # no ids and every call is number 0
        ([piece(0, "", "a", ONE), piece(0, "", "b", TWO)], [(*A, None), (*B, None)]),
        ([piece(0, None, "a", ONE), piece(0, None, "a", TWO)], [(*A, None), ("a", {"x": 2}, None)]),
        # no index at all
        ([piece(None, "c1", "a", ONE), piece(None, "c2", "b", TWO)], [(*A, "c1"), (*B, "c2")]),
        ([piece(None, None, "a", ONE), piece(None, None, "b", TWO)], [(*A, None), (*B, None)]),
        ([piece(None, None, "a", None), piece(None, None, "b", TWO)], [("a", {}, None), (*B, None)]),
        ([piece(None, "c", "a", '{"x"'), piece(None, None, None, ": 1}")], [(*A, "c")]),
        # the name and id repeated with every piece, and a name in pieces
        ([piece(0, "c", "a", '{"x"'), piece(0, "c", "a", ": 1}")], [(*A, "c")]),
        ([piece(0, None, "a", '{"x"'), piece(0, None, "a", ": 1}")], [(*A, None)]),
        ([piece(0, "c", "read_"), piece(0, None, "file", "{}")], [("read_file", {}, "c")]),
        # arguments as an object, and none at all
        ([piece(0, "c", "a", {"x": 1})], [(*A, "c")]),
        ([piece(0, "c", "a", "")], [("a", {}, "c")]),
    ],
)
def test_chat_tool_calls_of_careless_servers(pieces: list[Any], expected: list[Any]) -> None:
    assert calls(chat(*pieces)) == expected


def test_a_chat_message_with_calls_that_ends_with_stop_asks_for_tools() -> None:
    assert chat(piece(0, "c", "a", ONE), finish="stop").finish_reason is FinishReason.TOOL_CALLS
    assert chat(piece(0, "c", "a", '{"x'), finish="length").finish_reason is FinishReason.MAX_TOKENS


def test_chat_content_may_be_null_a_list_or_a_refusal() -> None:
    assert text(chat({"content": None}, {"content": "a"}, finish="stop")) == "a"
    typed = [{"type": "thinking", "thinking": []}, {"type": "text", "text": "b"}]
    assert text(chat({"content": typed}, finish="stop")) == "b"
    refused = chat({"refusal": "I will "}, {"refusal": "not."}, finish="stop")
    assert (text(refused), refused.finish_reason) == ("I will not.", FinishReason.BLOCKED)


def test_only_the_first_chat_choice_is_heard_and_the_last_usage_counts() -> None:
    events = [
        {"choices": [{"index": 1, "delta": {"content": "other"}}], "usage": {"prompt_tokens": 1}},
        {"choices": [{"index": 0, "delta": {"content": "mine"}, "finish_reason": "stop"}], "usage": None},
        {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}},
        {"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": None}]},
    ]
    _, reply = heard(CHAT, *events)

    assert reply == ModelReply(
        parts=(TextPart(text="mine"),),
        finish_reason=FinishReason.COMPLETED,
        usage=Usage(input_tokens=5, output_tokens=2),
    )


def test_a_chat_choice_that_ends_in_an_error_is_an_error() -> None:
    with pytest.raises(ProviderError) as caught:
        chat({"content": "x"}, finish="error")
    assert caught.value.message == "openrouter stream failed: code=error"
    failed = {"index": 0, "delta": {}, "error": {"code": 502, "message": "sk-SECRET"}}
    with pytest.raises(ProviderError, match=r"openrouter stream failed: HTTP 502$"):
        heard(CHAT, {"choices": [failed]})


def test_chat_reasoning_details_are_joined_as_a_whole_reply_would_hold_them() -> None:
    def part(**fields: Any) -> Any:
        return {"reasoning_details": [{"index": 0, **fields}]}

    reply = chat(
        part(type="reasoning.text", text="one ", format="f"),
        part(type="reasoning.text", text="two", format="f"),
        part(type="reasoning.text", text=None, signature="sig"),
        part(type="reasoning.encrypted", data="x"),
        part(type="reasoning.encrypted", data="y"),
        finish="stop",
    )

    assert opaque(reply) == [
        {
            "reasoning_details": [
                {"index": 0, "type": "reasoning.text", "text": "one two", "format": "f", "signature": "sig"},
                {"index": 0, "type": "reasoning.encrypted", "data": "x"},
                {"index": 0, "type": "reasoning.encrypted", "data": "y"},
            ]
        }
    ]


def block(index: int, start: Any, *deltas: Any) -> list[Any]:
    return [
        {"type": "content_block_start", "index": index, "content_block": start},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
    ]


def test_messages_blocks_of_every_kind_keep_their_order() -> None:
    """Without any content_block_stop, too: what matters is the stop reason."""
    deltas, reply = heard(
        MESSAGES,
        {"type": "message_start", "message": {"id": "m", "usage": {"input_tokens": 3, "output_tokens": 1}}},
        *block(0, {"type": "redacted_thinking", "data": "zzz"}),
        *block(1, {"type": "text", "text": "A"}, {"type": "text_delta", "text": "B"}),
        *block(
            2,
            {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
            {"type": "input_json_delta", "partial_json": '{"q": '},
            {"type": "input_json_delta", "partial_json": '"x"}'},
        ),
        *block(3, {"type": "brand_new", "payload": {"n": 1}}, {"type": "brand_new_delta", "n": 2}),
        *block(4, {"type": "compaction", "content": None}, {"type": "compaction_delta", "content": "short"}),
        *block(5, {"type": "text", "text": ""}, {"type": "text_delta", "text": "C"}),
        *block(6, {"type": "tool_use", "id": "t", "name": "x", "input": {"given": "whole"}}),
        {"type": "content_block_delta", "index": 99, "delta": {"type": "text_delta", "text": "lost"}},
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 9}},
    )

    assert [(delta.part, delta.text) for delta in deltas] == [(0, "AB"), (1, "C")]
    assert reply.parts[:-1] == (
        OpaquePart(driver="anthropic", data={"type": "redacted_thinking", "data": "zzz"}),
        TextPart(text="AB"),
        OpaquePart(
            driver="anthropic",
            data={"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"q": "x"}},
        ),
        OpaquePart(driver="anthropic", data={"type": "brand_new", "payload": {"n": 1}}),
        OpaquePart(driver="anthropic", data={"type": "compaction", "content": "short"}),
        TextPart(text="C"),
    )
    assert calls(reply) == [("x", {"given": "whole"}, "t")]
    assert reply.usage == Usage(input_tokens=3, output_tokens=9)


def test_messages_usage_is_a_snapshot_that_keeps_what_it_leaves_out() -> None:
    _, reply = heard(
        MESSAGES,
        {
            "type": "message_start",
            "message": {
                "usage": {
                    "input_tokens": 10,
                    "cache_read_input_tokens": 100,
                    "cache_creation_input_tokens": 1000,
                    "output_tokens": 1,
                }
            },
        },
        {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 2}},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn"},
            "usage": {"output_tokens": 3, "input_tokens": 20, "cache_read_input_tokens": None},
        },
    )

    assert reply.usage == Usage(input_tokens=1120, output_tokens=3, cached_input_tokens=100, cache_write_tokens=1000)


def test_a_chat_server_that_says_what_a_call_cost_is_believed() -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "cost": 0.0145}
    _, reply = heard(CHAT, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": usage})
    assert reply.usage == Usage(input_tokens=5, output_tokens=2, cost_usd=0.0145)

    for odd in ("free", -1, True, None, 1e300):
        usage["cost"] = odd  # type: ignore[assignment]  # what no server should send
        _, reply = heard(CHAT, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": usage})
        assert reply.usage.cost_usd == 0


def ended(status: str, **fields: Any) -> Any:
    return {"type": f"response.{status}", "response": {"id": "r", "status": status, "output": [], **fields}}


def test_a_response_whose_last_event_holds_no_items_is_put_together_from_those_before() -> None:
    call = {"type": "function_call", "call_id": "c", "name": "x", "arguments": ""}
    deltas, reply = heard(
        RESPONSES,
        {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "hi"},
        {"type": "response.output_text.done", "output_index": 0, "content_index": 0, "text": "hi"},
        {"type": "response.output_item.added", "output_index": 1, "item": call},
        {"type": "response.function_call_arguments.done", "output_index": 1, "arguments": '{"n": 1}'},
        ended("completed"),
    )

    assert deltas == [TextDelta(text="hi")]
    assert text(reply) == "hi"
    assert calls(reply) == [("x", {"n": 1}, "c")]
    assert reply.finish_reason is FinishReason.TOOL_CALLS


@pytest.mark.parametrize(
    ("event", "kind", "message"),
    [
        (
            ended("failed", error={"code": "rate_limit_exceeded", "message": "sk-SECRET"}),
            ErrorKind.RATE_LIMITED,
            "openai stream failed: code=rate_limit_exceeded",
        ),
        (ended("failed", error=None), ErrorKind.UNKNOWN, "openai stream failed"),
        (
            {"type": "error", "code": "server_error", "message": "sk-SECRET overloaded"},
            ErrorKind.SERVER_OVERLOADED,
            "openai stream failed: type=error, code=server_error",
        ),
        (
            {"type": "error", "error": {"type": "invalid_request_error", "code": "context_length_exceeded"}},
            ErrorKind.CONTEXT_WINDOW_EXCEEDED,
            "openai stream failed: type=invalid_request_error, code=context_length_exceeded, "
            "kind=context_window_exceeded",
        ),
    ],
)
def test_a_failed_response_is_a_classified_error(event: Any, kind: ErrorKind, message: str) -> None:
    with pytest.raises(ProviderError) as caught:
        heard(RESPONSES, event)

    assert (caught.value.kind, caught.value.message) == (kind, message)


def test_a_refusal_a_phase_and_a_cancelled_response() -> None:
    content = [{"type": "refusal", "refusal": "No."}]
    item = {"type": "message", "role": "assistant", "phase": "final_answer", "content": content}

    _, refused = heard(RESPONSES, ended("completed", output=[item]))
    _, cancelled = heard(RESPONSES, ended("cancelled"))

    assert (text(refused), refused.finish_reason) == ("No.", FinishReason.BLOCKED)
    assert opaque(refused) == [{"type": "message_phase", "phase": "final_answer"}]
    assert cancelled.finish_reason is FinishReason.CANCELLED


def test_reasoning_that_could_not_be_replayed_is_not_kept() -> None:
    stored: dict[str, Any] = {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [],
        "encrypted_content": None,
        "status": None,
    }
    raw = {**stored, "content": [{"type": "reasoning_text", "text": "hm"}]}

    _, reply = heard(RESPONSES, ended("completed", output=[stored, raw]))

    assert opaque(reply) == [
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}
    ]


@pytest.mark.parametrize(("levels", "refused"), [(100, False), (101, True), (900, True)])
def test_arguments_nested_beyond_all_measure_are_no_arguments(levels: int, refused: bool) -> None:
    arguments = '{"a":' * levels + "{}" + "}" * levels

    part = call_part(name="bash", arguments=arguments, provider_call_id="id")

    assert (part.invalid_input is not None) is refused
    assert (part.input == {}) is refused
