"""Tool results as the model reads them: the whole output, or a part of it and where the rest is. Pure."""

from __future__ import annotations

import hashlib

from kheish.core.jsonvalue import JsonObject, JsonValue, encode
from kheish.core.messages import ToolResultPart
from kheish.engine.tokens import BYTES_PER_TOKEN, value_tokens

STUB_PREVIEW_TOKENS = 40
_STUB_TOKENS = 120
"""About what a stub is worth: clearing a smaller result gains nothing."""

_GAP_BYTES = 60
"""What a preview says of the bytes it leaves out, at most."""


def for_prompt(call_id: str, output: JsonValue, limit: int) -> JsonValue:
    """Return the output, or a `truncated` object with about ``limit`` tokens of it when it is worth more."""
    data = encode(output)
    if len(data) <= limit * BYTES_PER_TOKEN:
        return output
    facts: JsonObject = {
        "truncated": True,
        "raw_ref": _raw_ref(call_id),
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "estimated_tokens": -(-len(data) // BYTES_PER_TOKEN),
    }
    text = output.encode(errors="replace") if isinstance(output, str) else data
    return _with_preview(facts, text, limit)


def _with_preview(facts: JsonObject, text: bytes, limit: int) -> JsonObject:
    """Add as much of ``text`` as fits; what JSON has to escape takes more room than it has bytes."""
    least = STUB_PREVIEW_TOKENS * BYTES_PER_TOKEN
    size = max((limit - value_tokens(facts)) * BYTES_PER_TOKEN, least)
    while True:
        made: JsonObject = {**facts, "preview": _preview(text, size)}
        worth = value_tokens(made)
        if worth <= limit or size <= least:
            return made
        size = max(size * limit * 9 // (worth * 10), least)


def _raw_ref(call_id: str) -> str:
    """Where the whole output is: the `tool_call_finished` event of this call."""
    return f"tool_result:{call_id}"


def stub(part: ToolResultPart) -> ToolResultPart | None:
    """Return the result with no more than a glimpse of its output; None when that would not make it smaller."""
    before = value_tokens(part.output)
    if before <= _STUB_TOKENS:
        return None
    known = part.output
    if isinstance(known, dict) and known.get("raw_ref") == _raw_ref(part.call_id) and "preview" in known:
        text = str(known["preview"]).encode(errors="replace")
        if len(text) <= STUB_PREVIEW_TOKENS * BYTES_PER_TOKEN + _GAP_BYTES:
            return None  # a stub already
        facts = {name: value for name, value in known.items() if name != "preview"}
        output: JsonValue = _with_preview(facts, text, STUB_PREVIEW_TOKENS)
    else:
        output = for_prompt(part.call_id, known, STUB_PREVIEW_TOKENS)
    if value_tokens(output) >= before:
        return None
    return ToolResultPart(
        call_id=part.call_id,
        name=part.name,
        output=output,
        is_error=part.is_error,
        provider_call_id=part.provider_call_id,
    )


def _preview(data: bytes, size: int) -> str:
    """The beginning and a little of the end, within ``size`` bytes or so."""
    if len(data) <= size:
        return data.decode(errors="ignore")
    head, tail = size * 3 // 4, size // 4
    begin, end = data[:head].decode(errors="ignore"), data[len(data) - tail :].decode(errors="ignore")
    return f"{begin}\n[... {len(data) - head - tail} bytes left out ...]\n{end}"
