"""Where a prompt window was made smaller, in the words of the wire contract. Pure."""

from __future__ import annotations

from kheish.core.jsonvalue import JsonObject
from kheish.engine.entries import Compacted, Microcompacted, Snipped


def boundary(entry: Microcompacted | Snipped | Compacted) -> JsonObject:
    """The `boundary` of a `compaction_boundary` event."""
    match entry:
        case Microcompacted():
            return {
                "type": "microcompact",
                "turn": entry.turn,
                "cleared_tool_ids": list(entry.cleared_tool_ids),
                "tokens_freed": entry.tokens_freed,
            }
        case Snipped():
            return {
                "type": "snip",
                "turn": entry.turn,
                "messages_removed": entry.messages_removed,
                "tokens_freed": entry.tokens_freed,
                "new_head_offset": entry.new_head_offset,
            }
        case Compacted():
            return {
                "type": "autocompact",
                "turn": entry.turn,
                "trigger": entry.trigger,
                "pre_tokens": entry.pre_tokens,
                "post_tokens": entry.post_tokens,
                "strategy": entry.strategy,
            }
