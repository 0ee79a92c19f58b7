"""The checkpoints of a session, in the envelope of the wire contract: worked out from its journal. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.core.messages import Part, TextPart, ToolCallPart, ToolResultPart
from kheish.engine.codec import encode_entry, type_name
from kheish.engine.context import Item, Transcript
from kheish.engine.entries import Compacted, Recorded

_CREATED_BY = "engine"


def checkpoints(journal: Sequence[Recorded]) -> Iterator[JsonObject]:
    """One checkpoint for each compaction, in order."""
    if not any(isinstance(recorded.entry, Compacted) for recorded in journal):
        return
    window = Transcript()
    digest = hashlib.sha256()
    ahead: list[Recorded] = []
    for recorded in journal:
        window.extend(recorded)
        ahead.append(recorded)
        if isinstance(recorded.entry, Compacted):
            covered = [one for one in ahead if one.offset <= recorded.entry.compacted_until_offset]
            for one in covered:
                _add(digest, one)
            ahead = ahead[len(covered) :]
            yield _checkpoint(recorded.entry, recorded.offset, window, digest.hexdigest())


def _add(digest: hashlib._Hash, recorded: Recorded) -> None:
    digest.update(f"{recorded.offset} {recorded.run_id} {type_name(recorded.entry)} ".encode())
    digest.update(encode_entry(recorded.entry))
    digest.update(b"\n")


def _checkpoint(entry: Compacted, offset: int, window: Transcript, journal_digest: str) -> JsonObject:
    metadata: JsonObject = {
        "trigger": entry.trigger,
        "pre_tokens": entry.pre_tokens,
        "post_tokens": entry.post_tokens,
        "strategy": entry.strategy,
    }
    if window.items:
        metadata["preserved_segment"] = {
            "head_uuid": window.items[0].id,
            "anchor_uuid": f"summary-{entry.window_generation}",
            "tail_uuid": window.items[-1].id,
        }
    return {
        "compacted_until_offset": entry.compacted_until_offset,
        "journal_digest": journal_digest,
        "prompt_summary": {"title": entry.title, "content": entry.summary},
        "prompt_window_id": entry.window_id,
        "prompt_window_generation": entry.window_generation,
        "prompt_window_started_after_offset": offset,
        "prompt_window_created_by": _CREATED_BY,
        "compact_metadata": metadata,
        "restoration": entry.restoration,
        # A compaction comes before a model call, when every call has its result.
        "canonical": {
            "messages": [_message(item) for item in window.items],
            "open_tool_calls": {},
            "completed_tool_results": [result for item in window.items for result in _results(item)],
        },
    }


def _message(item: Item) -> JsonObject:
    content: list[JsonValue] = [part for part in map(_content, item.message.parts) if part is not None]
    found: JsonObject = {"id": item.id, "role": item.message.role.value, "content": content}
    return {**found, "pinned": item.is_input, "offset": item.offset}


def _content(part: Part) -> JsonObject | None:
    match part:
        case TextPart(text=text):
            return {"type": "text", "text": text}
        case ToolCallPart():
            return {"type": "tool_call", "id": part.call_id, "name": part.name, "input": part.input}
        case ToolResultPart():
            return {"type": "tool_result", "call_id": part.call_id}
        case _:
            # Reasoning and other provider-only data is shown to nobody.
            return None


def _results(item: Item) -> Iterator[JsonObject]:
    for part in item.message.parts:
        if isinstance(part, ToolResultPart):
            yield {
                "call_id": part.call_id,
                "output": part.output,
                "is_error": part.is_error,
                "tool_name": part.name,
            }
