"""Each wire over real recorded traffic, in random byte chunks, judged by the official client."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from kheish.core.messages import FinishReason
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


def _url_safe(base64: str) -> str:
    """The official client writes binary values in the other alphabet."""
    return base64.replace("+", "-").replace("/", "_")
