"""Each wire over real recorded traffic, in random byte chunks, judged by the official client."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import pytest

from kheish.core.messages import FinishReason
from kheish.providers.protocol import ErrorKind, ProviderError
from tests.providers.reading import Recording, calls, opaque, random_chunks, read, recordings, text
from tests.providers.wires import CHAT, GEMINI, MESSAGES, RESPONSES, Wire

pytestmark = pytest.mark.anyio

FINISH: Mapping[str, FinishReason] = {
    "stop": FinishReason.COMPLETED,
    "tool_calls": FinishReason.TOOL_CALLS,
    "end_turn": FinishReason.COMPLETED,
    "tool_use": FinishReason.TOOL_CALLS,
    "completed": FinishReason.COMPLETED,
    "STOP": FinishReason.COMPLETED,
}


async def check(wire: Wire, recording: Recording) -> None:
    judged = await wire.judge(recording.body)
    expected = read(wire.decoder(), [recording.body])
    for seed in range(8):
        assert read(wire.decoder(), random_chunks(recording.body, seed)) == expected
    deltas, reply = expected

    assert text(reply) == judged.text == "".join(delta.text for delta in deltas)
    assert calls(reply) == judged.calls
    finish = FINISH[judged.finish or ""]
    assert reply.finish_reason is (FinishReason.TOOL_CALLS if judged.calls else finish)
    usage = reply.usage
    assert (usage.input_tokens, usage.output_tokens) == (judged.input_tokens, judged.output_tokens)
    assert usage.cached_input_tokens == judged.cached_tokens


@pytest.mark.parametrize(
    ("wire", "recording"),
    [
        pytest.param(wire, *found.values, marks=found.marks, id=f"{wire.name}-{found.id}")
        for wire, folder, path in (
            (CHAT, "openrouter", "/chat/completions"),
            (CHAT, "openai", "/chat/completions"),
            (MESSAGES, "anthropic", "/messages"),
            (RESPONSES, "openai_responses", "/responses"),
            (RESPONSES, "openai", "/responses"),
            (GEMINI, "google", ":streamGenerateContent"),
        )
        for found in recordings(folder, path)
    ],
)
def test_recorded_traffic_that_is_cut_is_never_taken_for_whole(wire: Wire, recording: Recording) -> None:
    """Until the provider has said why it ends; from there on it is the whole reply."""
    frames = [frame + b"\n\n" for frame in recording.body.replace(b"\r\n", b"\n").split(b"\n\n") if frame.strip()]
    _, expected = read(wire.decoder(), [recording.body])
    replies = []
    for kept in range(len(frames) + 1):
        with suppress(ProviderError):
            replies.append((kept, read(wire.decoder(), frames[:kept])[1]))
        if not replies:
            with pytest.raises(ProviderError) as caught:
                read(wire.decoder(), frames[:kept])
            assert (caught.value.kind, caught.value.retryable) == (ErrorKind.TRANSPORT, True)

    first = replies[0][0]
    assert [kept for kept, _ in replies] == list(range(first, len(frames) + 1))
    assert first > len(frames) // 2 or len(frames) < 4
    for _, reply in replies:
        assert (reply.parts, reply.finish_reason) == (expected.parts, expected.finish_reason)


@pytest.mark.parametrize(
    "recording", [*recordings("openrouter", "/chat/completions"), *recordings("openai", "/chat/completions")]
)
async def test_chat_completions(recording: Recording) -> None:
    await check(CHAT, recording)


@pytest.mark.parametrize("recording", recordings("anthropic", "/messages"))
async def test_anthropic_messages_keep_every_private_block_whole(recording: Recording) -> None:
    judged = await MESSAGES.judge(recording.body)
    await check(MESSAGES, recording)

    _, reply = read(MESSAGES.decoder(), [recording.body])
    assert opaque(reply) == judged.private


@pytest.mark.parametrize(
    "recording", [*recordings("openai_responses", "/responses"), *recordings("openai", "/responses")]
)
async def test_openai_responses_keep_what_can_be_replayed(recording: Recording) -> None:
    judged = await RESPONSES.judge(recording.body)
    await check(RESPONSES, recording)

    _, reply = read(RESPONSES.decoder(), [recording.body])
    replayable = [
        {
            key: value
            for key, value in item.items()
            if value is not None and (item["type"], key) != ("reasoning", "status")
        }
        for item in judged.private
        if item["type"] != "reasoning" or item.get("encrypted_content") or item.get("content")
    ]
    assert [item for item in opaque(reply) if item["type"] != "message_phase"] == replayable


@pytest.mark.parametrize("recording", recordings("google", ":streamGenerateContent"))
async def test_gemini_keeps_every_thought_and_every_signature(recording: Recording) -> None:
    judged = await GEMINI.judge(recording.body)
    await check(GEMINI, recording)

    _, reply = read(GEMINI.decoder(), [recording.body])
    kept = opaque(reply)
    thoughts = [part["text"] for part in judged.private if part.get("thought")]
    assert "".join(part["text"] for part in kept if part.get("thought")) == "".join(thoughts)
    signatures = [part["thoughtSignature"] for part in judged.private if "thoughtSignature" in part]
    assert [_url_safe(part["thoughtSignature"]) for part in kept if "thoughtSignature" in part] == signatures


@pytest.mark.parametrize("recording", recordings("google", ":generateContent"))
async def test_gemini_without_a_stream_is_the_same_reply(recording: Recording) -> None:
    judged = await GEMINI.judge(b"data: " + recording.body + b"\n\n")
    deltas, reply = read(GEMINI.decoder(), random_chunks(recording.body, 1))

    assert text(reply) == judged.text == "".join(delta.text for delta in deltas)
    assert calls(reply) == judged.calls
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (judged.input_tokens, judged.output_tokens)


def _url_safe(base64: str) -> str:
    """The official client writes binary values in the other alphabet."""
    return base64.replace("+", "-").replace("/", "_")
