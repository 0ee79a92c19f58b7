"""When and how a prompt is made smaller before it is sent. Pure: entries out, nothing done.

The order is: clear old tool results, leave out finished exchanges, condense into a checkpoint. Each step is tried only
when the one before it did not bring the prompt down to the budget.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from kheish.core.messages import Role, ToolResultPart, Usage
from kheish.engine.context import Item, Transcript
from kheish.engine.decide import CallModel, Compact
from kheish.engine.entries import Compacted, Microcompacted, Recorded, Snipped
from kheish.engine.prompt_results import stub
from kheish.engine.session_memory import TITLE, left_out_note, model_summary, session_memory
from kheish.engine.state import RunState
from kheish.engine.tokens import part_tokens
from kheish.engine.window import (
    IDLE_TIMEOUT_MS,
    KEEP_LAST_MESSAGES,
    MICROCOMPACT_KEEPS_RESULTS,
    SNIP_KEEPS_MESSAGES,
    WindowPolicy,
    window_policy,
)

SESSION_MEMORY, MODEL_DRIVEN = "session_memory", "model_driven"
_MOST_UNDERRATED = 4
"""A provider that counts more than this many times our estimate is not believed."""


def relieve(run: RunState, call: CallModel, window: Transcript, *, now_ms: int, standing_tokens: int) -> Compact | None:
    """Say what has to happen to ``window`` before the call; None: send it as it is.

    ``standing_tokens`` is what the request carries beside its messages.
    """
    policy = window_policy(run.route, run.generation, run.max_output_tokens)
    if run.overflows > run.relieved:
        return _after_overflow(run, call.turn, window, policy)
    scale = _scale(window, standing_tokens)

    def worth(of: Transcript) -> int:
        return round((of.tokens + standing_tokens) * scale)

    size = worth(window)
    if size < policy.threshold:
        idle = window.last_reply_ms is not None and now_ms - window.last_reply_ms >= IDLE_TIMEOUT_MS
        cleared = _microcompact(window, call.turn, MICROCOMPACT_KEEPS_RESULTS) if idle else None
        return None if cleared is None else Compact(entries=(cleared,))
    steps = _Steps(run, window)
    steps.add(_microcompact(window, call.turn, MICROCOMPACT_KEEPS_RESULTS))
    if worth(steps.window) <= policy.snip_budget:
        return steps.answer()
    excess = math.ceil((worth(steps.window) - policy.snip_budget) / scale)
    snip = _snip(steps.window, call.turn, policy, excess=excess)
    if snip is not None:
        steps.add(snip)
        return steps.answer()
    # With a todo list the session's own facts say enough; a summary costs a model call, which has to fit as well.
    asking = not window.facts.todos and size + policy.summary_max < policy.window
    planned = compaction(window, policy, turn=call.turn, strategy=MODEL_DRIVEN if asking else SESSION_MEMORY)
    if planned is None or planned.pre_tokens - planned.post_tokens < policy.least_gain:
        return steps.answer()
    # On its own: what is condensed needs no clearing first.
    return Compact(summarise=True) if asking else Compact(entries=(planned,))


def compaction(
    window: Transcript,
    policy: WindowPolicy,
    *,
    turn: int,
    strategy: str,
    text: str = "",
    usage: Usage = Usage(),
    least: bool = False,
) -> Compacted | None:
    """Build the checkpoint; ``text`` is the model's summary. None when there is nothing to condense.

    ``least`` keeps no more than the provider needs to go on: used after an overflow, and then there is always one.
    """
    kept = _tail(window.items, policy, least=least, memory=strategy == SESSION_MEMORY)
    removed = [item for item in window.items[:kept] if item is not window.latest_input]
    if not removed and not least:
        return None
    budget = max(1, policy.memory_max // (4 if least else 2))
    if strategy == MODEL_DRIVEN:
        summary = model_summary(window, removed, text, budget)
    else:
        summary = session_memory(window, removed, budget)
    entry = Compacted(
        turn=turn,
        trigger="auto",
        strategy=strategy,
        pre_tokens=window.tokens,
        post_tokens=0,
        window_generation=window.generation + 1,
        compacted_until_offset=_before(window.items, kept),
        title=TITLE,
        summary=summary,
        restoration=window.facts.restoration(),
        usage=usage,
    )
    return replace(entry, post_tokens=_after(window, entry).tokens)


def _after_overflow(run: RunState, turn: int, window: Transcript, policy: WindowPolicy) -> Compact:
    """The provider refused: first leave out all that can be spared, then condense to the least. Never nothing."""
    steps = _Steps(run, window)
    if run.overflows == 1:
        steps.add(_microcompact(window, turn, 1))
        steps.add(_aggressive_snip(steps.window, turn, policy))
    else:
        steps.add(_microcompact(window, turn, 0, unseen=True))
        steps.add(compaction(steps.window, policy, turn=turn, strategy=SESSION_MEMORY, least=True))
    return Compact(entries=steps.entries)


def _microcompact(window: Transcript, turn: int, keep: int, *, unseen: bool = False) -> Microcompacted | None:
    """Clear results but the newest ``keep``; those the model has not read yet stay too, unless told otherwise."""
    items = window.items
    read = items if unseen or not items or items[-1].message.role is not Role.TOOL else items[:-1]
    fresh = sum(len(item.message.parts) for item in items[len(read) :])
    results = [part for item in read for part in item.message.parts if isinstance(part, ToolResultPart)]
    old = results[: max(0, len(results) - max(0, keep - fresh))]
    stubs = [(part, made) for part in old if (made := stub(part)) is not None]
    if not stubs:
        return None
    return Microcompacted(
        turn=turn,
        cleared_tool_ids=tuple(part.call_id for part, _ in stubs),
        tokens_freed=sum(part_tokens(part) - part_tokens(made) for part, made in stubs),
    )


def _snip(window: Transcript, turn: int, policy: WindowPolicy, *, excess: int) -> Snipped | None:
    """Leave out the oldest finished exchanges, if that brings the prompt down to the budget; once per window."""
    if window.snipped:
        return None
    excess += policy.memory_max // 8  # the note that takes their place
    freed = 0
    for index, item in enumerate(window.items[: len(window.items) - SNIP_KEEPS_MESSAGES + 1]):
        if item.is_input and freed >= excess:
            return _snipped(window, turn, policy, index)
        freed += item.tokens
    return None


def _aggressive_snip(window: Transcript, turn: int, policy: WindowPolicy) -> Snipped:
    """Halve the prompt at least, down to the last exchange with the model if need be."""
    last = _last_exchange(window.items)
    target, freed = window.tokens // 2, 0
    for index, item in enumerate(window.items[:last]):
        if freed >= target and item.message.role is not Role.TOOL:
            return _snipped(window, turn, policy, index)
        freed += item.tokens
    return _snipped(window, turn, policy, last)


def _snipped(window: Transcript, turn: int, policy: WindowPolicy, index: int) -> Snipped:
    entry = Snipped(
        turn=turn,
        messages_removed=sum(item is not window.latest_input for item in window.items[:index]),
        tokens_freed=0,
        new_head_offset=_before(window.items, index) + 1,
        note=left_out_note(window, policy.memory_max // 8) if index else window.note,
    )
    return replace(entry, tokens_freed=max(0, window.tokens - _after(window, entry).tokens))


def _tail(items: Sequence[Item], policy: WindowPolicy, *, least: bool, memory: bool) -> int:
    """Where the messages begin that a compaction keeps: never between a call and its result."""
    start = _last_exchange(items)
    if least:
        return start
    count, tokens = len(items) - start, sum(item.tokens for item in items[start:])
    floor = policy.memory_min if memory else 0
    for index in range(start - 1, -1, -1):
        if tokens + items[index].tokens > policy.memory_max or (count >= KEEP_LAST_MESSAGES and tokens >= floor):
            break
        count, tokens = count + 1, tokens + items[index].tokens
        if items[index].message.role is not Role.TOOL:
            start = index
    return start


def _last_exchange(items: Sequence[Item]) -> int:
    """The last message that is no tool result: with what follows it, the least a model call can do with."""
    places = range(len(items) - 1, -1, -1)
    return next((index for index in places if items[index].message.role is not Role.TOOL), 0)


def _before(items: Sequence[Item], index: int) -> int:
    """The last offset that belongs to what comes before ``items[index]``."""
    if index < len(items):
        return items[index].offset - 1
    return items[-1].offset if items else 0


def _scale(window: Transcript, standing_tokens: int) -> float:
    """How much more a provider counts than we do, from the last request it counted."""
    estimate = window.tokens + standing_tokens
    if window.measured is None or estimate <= 0:
        return 1.0
    counted = window.measured.tokens + window.tokens - window.measured.estimate
    return min(max(counted / estimate, 1.0), float(_MOST_UNDERRATED))


@dataclass(slots=True)
class _Steps:
    """Reliefs one after the other, each seen by the next."""

    entries: tuple[Microcompacted | Snipped | Compacted, ...]
    window: Transcript

    def __init__(self, run: RunState, window: Transcript) -> None:
        self.entries = ()
        self.window = window

    def add(self, entry: Microcompacted | Snipped | Compacted | None) -> None:
        if entry is not None:
            self.entries = (*self.entries, entry)
            self.window = _after(self.window, entry)

    def answer(self) -> Compact | None:
        return Compact(entries=self.entries) if self.entries else None


def _after(window: Transcript, entry: Microcompacted | Snipped | Compacted) -> Transcript:
    after = window.copy()
    after.extend(Recorded(session_id="", offset=window.started_after_offset, at_ms=0, run_id=None, entry=entry))
    return after
