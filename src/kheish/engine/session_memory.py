"""What a compaction leaves in place of the messages: the session's own facts, in words a model reads. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from kheish.core.jsonvalue import JsonObject
from kheish.core.messages import Role
from kheish.engine.context import Item, Transcript
from kheish.engine.facts import RetainedInput, clipped
from kheish.engine.tokens import BYTES_PER_TOKEN

TITLE = "The conversation so far"
_OPENING = (
    "Earlier messages of this conversation were condensed to make room. What matters of them stands here; files and "
    "commands can be looked at again."
)
_LEFT_OUT = "Earlier messages of this conversation are left out here."
_SAID, _BY_MODEL = "What was said before", "Summary"
SUMMARY_REQUEST = (
    "The conversation above is about to be condensed to make room, and you will go on from your own summary. Write it "
    "now, as text only, without calling any tool. Say what was asked and what counts as done; what has been found, "
    "decided and changed, with names, paths, numbers and exact error texts that are still needed; what failed and why; "
    "what is open, and the very next step. Leave out what no longer matters."
)


def session_memory(window: Transcript, removed: Sequence[Item], budget: int) -> str:
    """Build the summary from facts alone; ``budget`` is in tokens, ``removed`` are the messages that will go."""
    room = budget * BYTES_PER_TOKEN
    said = _section(_SAID, _said(removed, window.summary, room // 3))
    return _text(_facts(window, removed, room // 2), said)


def model_summary(window: Transcript, removed: Sequence[Item], text: str, budget: int) -> str:
    """Put a model's summary beside the facts."""
    room = budget * BYTES_PER_TOKEN
    return _text(_facts(window, removed, room // 2), _section(_BY_MODEL, clipped(text, room // 2)))


def left_out_note(window: Transcript, budget: int) -> str:
    """What stands where messages were left out without a summary."""
    return "\n\n".join(part for part in (_LEFT_OUT, _todos(window.facts.todos, budget * BYTES_PER_TOKEN)) if part)


def _text(*sections: str) -> str:
    return "\n\n".join((_OPENING, *(section for section in sections if section)))


def _facts(window: Transcript, removed: Sequence[Item], room: int) -> str:
    gone = {item.id for item in removed}
    still_there = {item.id for item in window.items if item.id not in gone}
    asked = [one for one in window.facts.inputs if one.message_id not in still_there]
    sections = (
        _todos(window.facts.todos, room // 3),
        _section("What was asked before", _asked(asked, room // 3)),
        _section("Files changed, the latest last", _newest(window.facts.files_modified, room // 6)),
        _section("Files read, the latest last", _newest(window.facts.files_read, room // 6)),
    )
    return "\n\n".join(section for section in sections if section)


def _todos(todos: Sequence[JsonObject], room: int) -> str:
    """Open ones first when there is no room for all."""
    lines: dict[int, str] = {}
    order = sorted(range(len(todos)), key=lambda index: bool(todos[index].get("completed")))
    for index in order:
        todo = todos[index]
        done = "x" if todo.get("completed") else " "
        line = clipped(f"- [{done}] {todo.get('id')}: {todo.get('content')}", 400)
        room -= len(line) + 1
        if room < 0:
            break
        lines[index] = line
    return _section("Todo list", "\n".join(lines[index] for index in sorted(lines)))


def _asked(inputs: Sequence[RetainedInput], room: int) -> str:
    each = max(80, room // 4)
    return _newest([clipped(one.text.strip(), each) for one in inputs], room)


def _said(removed: Sequence[Item], earlier: str, room: int) -> str:
    """The last words of the assistant, after what is left of the summary before."""
    texts = [item.message.text.strip() for item in removed if item.message.role is Role.ASSISTANT]
    carried = clipped(_words(earlier), room // 3)
    newest = _newest([clipped(text, max(80, room // 6)) for text in texts if text], room - len(carried))
    return "\n\n".join(part for part in (carried, newest) if part)


def _words(summary: str) -> str:
    """A summary without its facts: they are written anew."""
    for title in (_BY_MODEL, _SAID):
        _, found, body = summary.partition(f"## {title}\n")
        if found:
            return body.strip()
    return ""


def _newest(lines: Sequence[str], room: int) -> str:
    """As many of the last lines as fit, in their order."""
    kept: list[str] = []
    for line in reversed(lines):
        room -= len(line) + 3
        if room < 0:
            break
        kept.append(f"- {line}")
    return "\n".join(reversed(kept))


def _section(title: str, body: str) -> str:
    return f"## {title}\n{body}" if body else ""
