"""The conversation a model call sees: a projection of the session's journal, extended entry by entry. Pure.

The journal is never shortened. What leaves the window leaves this projection only, and only because an entry says so:
folding the same journal gives the same window.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from kheish.core.jsonvalue import JsonObject
from kheish.core.messages import FinishReason, Message, Part, Role, ToolCallPart, ToolResultPart, user_text
from kheish.core.values import changed, value_class
from kheish.engine import entries as e
from kheish.engine.entries import Recorded, RouteRef
from kheish.engine.facts import SessionFacts
from kheish.engine.prompt_results import for_prompt, stub
from kheish.engine.tokens import BYTES_PER_TOKEN, message_tokens, part_tokens
from kheish.engine.window import result_tokens, window_tokens
from kheish.providers.protocol import Continuation

_STOPPED_OUTPUT: JsonObject = {"error": "The run was stopped before this call finished.", "interrupted": True}
_ITEM_BYTES = 600
"""What a message costs in memory beside its content."""


@value_class(frozen=True, kw_only=True, slots=True)
class Item:
    """A message in the window."""

    id: str
    offset: int
    """Of the entry it began with."""
    message: Message
    tokens: int
    is_input: bool = False
    """Somebody asked for something: where a run begins."""


@value_class(frozen=True, kw_only=True, slots=True)
class _Waiting:
    """The input of a queued run, and the route and window of the model it will be read by."""

    text: str
    window: int
    route: RouteRef | None = None


@value_class(frozen=True, kw_only=True, slots=True)
class _Measured:
    """A provider counted the tokens of a whole request."""

    tokens: int
    estimate: int
    """Ours of its messages."""


@dataclass(slots=True)
class Transcript:
    """Messages in order. Queued inputs join when their run starts; calls left open by a stopped run are closed."""

    items: list[Item] = field(default_factory=list)
    tokens: int = 0
    """Estimate of everything `messages` returns."""
    facts: SessionFacts = field(default_factory=SessionFacts)
    generation: int = 0
    """How many checkpoints the session has; a provider's continuation id never crosses one."""
    started_after_offset: int = 0
    """Continuation ids of entries up to here belong to an earlier window."""
    snipped: bool = False
    """The window has lost its oldest messages without a summary."""
    summary: str = ""
    note: str = ""
    """What is said of messages that were left out since the summary."""
    last_reply_ms: int | None = None
    measured: _Measured | None = None
    """None when the window was made smaller since the last reply."""
    continuation: tuple[RouteRef, Continuation] | None = None
    """The last reply and the route it came over; None when its provider knows another window than this one."""
    _waiting: dict[str, _Waiting] = field(default_factory=dict)
    _open: dict[str, ToolCallPart] = field(default_factory=dict)
    _speaker: str | None = None
    """The run whose calls are open: the one that holds the slot."""
    _route: RouteRef | None = None
    """The speaker's."""
    _window: int = 0
    """Of the speaker's model, in tokens."""
    _result_limit: int = 0
    """For each result of the last assistant message, in tokens."""

    def copy(self) -> Transcript:
        """Another transcript with the same content; extending one does not change the other."""
        return changed(
            self,
            items=list(self.items),
            facts=self.facts.copy(),
            _waiting=dict(self._waiting),
            _open=dict(self._open),
        )

    def extend(self, recorded: Recorded) -> None:
        """Take in one more entry of the session."""
        entry = recorded.entry
        match entry:
            case e.InputAccepted(text=text):
                window = window_tokens(entry.route, entry.generation)
                self._waiting[recorded.run_id or ""] = _Waiting(text=text, window=window, route=entry.route)
            case e.RunStarted():
                self._begin(recorded)
            case e.ModelReplied():
                self._say(recorded, entry)
            case e.ToolFinished():
                self.facts.finished(entry)
                self._answer(entry, recorded.offset)
            case e.FollowedUp(text=text):
                self._append(f"follow-up-{recorded.offset}", recorded.offset, user_text(text))
            case e.Microcompacted():
                self._clear(frozenset(entry.cleared_tool_ids))
            case e.Snipped():
                self._drop(entry.new_head_offset)
                self._set_head(self.summary, entry.note)
                self.snipped = True
            case e.Compacted():
                self._compact(entry, recorded.offset)
            case e.RunEnded():
                self._waiting.pop(recorded.run_id or "", None)
                # A queued run that is cancelled has said nothing, and the active one goes on.
                if recorded.run_id == self._speaker:
                    self._close(recorded.offset)
            case _:
                pass

    def messages(self) -> tuple[Message, ...]:
        """What to send; results of one assistant message stand together, in call order."""
        return (*self._head(), *[item.message for item in self.items])

    @property
    def latest_input(self) -> Item | None:
        """The input that is being worked on: it stays whatever is cut."""
        return next((item for item in reversed(self.items) if item.is_input), None)

    @property
    def memory_bytes(self) -> int:
        """About what this transcript takes in memory."""
        waiting = sum(len(one.text) for one in self._waiting.values())
        return (self.tokens * BYTES_PER_TOKEN + waiting) * 2 + len(self.items) * _ITEM_BYTES

    def _begin(self, recorded: Recorded) -> None:
        run_id = recorded.run_id or ""
        waiting = self._waiting.pop(run_id, _Waiting(text="", window=self._window))
        self._speaker, self._window, self._route = recorded.run_id, waiting.window, waiting.route
        self.facts.asked(f"input-{run_id}", waiting.text)
        self._append(f"input-{run_id}", recorded.offset, user_text(waiting.text), is_input=True)

    def _say(self, recorded: Recorded, entry: e.ModelReplied) -> None:
        self.last_reply_ms = recorded.at_ms
        self.measured = _Measured(tokens=entry.usage.input_tokens, estimate=self.tokens)
        message = Message(role=Role.ASSISTANT, parts=entry.parts)
        if message.parts:
            self._append(entry.message_id, recorded.offset, message)
        self._open = {call.call_id: call for call in message.tool_calls}
        self.continuation = self._continued_by(entry, message)
        self._result_limit = result_tokens(self._window, len(self._open))

    def _continued_by(self, entry: e.ModelReplied, message: Message) -> tuple[RouteRef, Continuation] | None:
        """A provider can go on from a whole reply whose calls it can tell apart by its own ids."""
        ids = [call.provider_call_id for call in message.tool_calls]
        whole = entry.finish_reason in (FinishReason.COMPLETED, FinishReason.TOOL_CALLS)
        if self._route is None or entry.response_id is None or not whole or not all(ids) or len(set(ids)) < len(ids):
            return None
        known = len(self._head()) + len(self.items)
        return self._route, Continuation(response_id=entry.response_id, known_messages=known)

    def _answer(self, entry: e.ToolFinished, offset: int) -> None:
        call = self._open.pop(entry.call_id, None)
        result = ToolResultPart(
            call_id=entry.call_id,
            name=entry.name,
            output=for_prompt(entry.call_id, entry.output, self._result_limit),
            is_error=entry.is_error,
            provider_call_id=None if call is None else call.provider_call_id,
        )
        last = self.items[-1] if self.items else None
        if last is not None and last.message.role is Role.TOOL:
            self._replace(len(self.items) - 1, (*last.message.parts, result), last.tokens + part_tokens(result))
        else:
            self._append(entry.call_id, offset, Message(role=Role.TOOL, parts=(result,)))

    def _close(self, offset: int) -> None:
        for call in tuple(self._open.values()):
            stopped = e.ToolFinished(call_id=call.call_id, name=call.name, output=_STOPPED_OUTPUT, is_error=True)
            self._answer(stopped, offset)
        self._open = {}

    # Relief

    def _clear(self, call_ids: frozenset[str]) -> None:
        self.measured = self.continuation = None
        for index, item in enumerate(self.items):
            results = (part for part in item.message.parts if isinstance(part, ToolResultPart))
            if item.message.role is Role.TOOL and any(part.call_id in call_ids for part in results):
                parts = tuple(_cleared(part, call_ids) for part in item.message.parts)
                self._replace(index, parts, message_tokens(Message(role=Role.TOOL, parts=parts)))

    def _drop(self, new_head_offset: int) -> None:
        self.measured = self.continuation = None
        latest = self.latest_input
        kept = [item for item in self.items if item.offset >= new_head_offset or item is latest]
        self.tokens -= sum(item.tokens for item in self.items) - sum(item.tokens for item in kept)
        self.items = kept

    def _compact(self, entry: e.Compacted, offset: int) -> None:
        self._drop(entry.compacted_until_offset + 1)
        self._set_head(entry.summary, "")
        self.snipped = False
        self.generation = entry.window_generation
        self.started_after_offset = offset

    def _set_head(self, summary: str, note: str) -> None:
        self.tokens -= sum(map(message_tokens, self._head()))
        self.summary, self.note = summary, note
        self.tokens += sum(map(message_tokens, self._head()))

    def _head(self) -> tuple[Message, ...]:
        text = "\n\n".join(part for part in (self.summary, self.note) if part)
        return (user_text(text),) if text else ()

    # Items

    def _append(self, item_id: str, offset: int, message: Message, *, is_input: bool = False) -> None:
        tokens = message_tokens(message)
        self.items.append(Item(id=item_id, offset=offset, message=message, tokens=tokens, is_input=is_input))
        self.tokens += tokens

    def _replace(self, index: int, parts: tuple[Part, ...], tokens: int) -> None:
        item = self.items[index]
        self.items[index] = changed(item, message=Message(role=item.message.role, parts=parts), tokens=tokens)
        self.tokens += tokens - item.tokens


def _cleared(part: Part, call_ids: frozenset[str]) -> Part:
    if isinstance(part, ToolResultPart) and part.call_id in call_ids:
        return stub(part) or part
    return part
