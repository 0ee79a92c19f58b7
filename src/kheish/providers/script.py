"""What a scripted model knows: ordered rules, each with conditions and a reply. Plain values, no I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import field

from kheish.core.jsonvalue import JsonValue
from kheish.core.messages import FinishReason, Usage
from kheish.core.values import value_class
from kheish.providers.protocol import ErrorKind
from kheish.providers.script_template import Template, TemplateValue, as_text

DEFAULT_CHUNK_CHARS = 16


@value_class(frozen=True, kw_only=True, slots=True)
class TextTest:
    """Holds when the text contains, equals or matches; every test given must hold."""

    contains: tuple[str, ...] = ()
    equals: str | None = None
    regex: re.Pattern[str] | None = None

    def search(self, text: str) -> Mapping[str, str] | None:
        """Return the groups of the match ("0" is all of it), empty without a regex; None when it does not hold."""
        if not all(part in text for part in self.contains):
            return None
        if self.equals is not None and self.equals != text:
            return None
        if self.regex is None:
            return {}
        found = self.regex.search(text)
        if found is None:
            return None
        numbered = {str(number): found[number] or "" for number in range(self.regex.groups + 1)}
        return {**numbered, **{name: value or "" for name, value in found.groupdict().items()}}


@value_class(frozen=True, kw_only=True, slots=True)
class NumberTest:
    """Holds for a number inside the bounds, or one of those listed."""

    minimum: int | None = None
    maximum: int | None = None
    values: tuple[int, ...] = ()

    def holds(self, number: int) -> bool:
        if self.values and number not in self.values:
            return False
        return (self.minimum is None or number >= self.minimum) and (self.maximum is None or number <= self.maximum)


@value_class(frozen=True, kw_only=True, slots=True)
class ResultTest:
    """Holds for a tool result: its tool, its error flag, and its output (anything but a string as compact JSON)."""

    tool: str | None = None
    is_error: bool | None = None
    text: TextTest = field(default_factory=TextTest)

    def holds(self, tool: str, output: JsonValue, is_error: bool) -> bool:
        if self.tool is not None and self.tool != tool:
            return False
        if self.is_error is not None and self.is_error is not is_error:
            return False
        return self.text.search(as_text(output)) is not None


@value_class(frozen=True, kw_only=True, slots=True)
class When:
    """The conditions of a rule; all of them must hold, none means always."""

    turn: NumberTest | None = None
    user_turn: NumberTest | None = None
    max_output_tokens: NumberTest | None = None
    user: TextTest | None = None
    any_user: TextTest | None = None
    assistant: TextTest | None = None
    system: TextTest | None = None
    model: TextTest | None = None
    tools: tuple[str, ...] = ()
    without_tools: tuple[str, ...] = ()
    results: tuple[ResultTest, ...] = ()
    any_results: tuple[ResultTest, ...] = ()
    no_results: tuple[ResultTest, ...] = ()


@value_class(frozen=True, kw_only=True, slots=True)
class ScriptedText:
    text: Template


@value_class(frozen=True, kw_only=True, slots=True)
class ScriptedThought:
    """Private reasoning: kept by the engine, replayed, shown to nobody."""

    text: Template


@value_class(frozen=True, kw_only=True, slots=True)
class ScriptedCall:
    tool: str
    input: Mapping[str, TemplateValue] = field(default_factory=dict)
    id: str | None = None
    """The provider's own id; None makes one from the position."""
    invalid_arguments: str | None = None
    """Arguments that are not a JSON object, as a confused model would send them."""


ScriptedPart = ScriptedText | ScriptedThought | ScriptedCall


@value_class(frozen=True, kw_only=True, slots=True)
class ScriptedError:
    """How the call fails, after whatever the reply streams before."""

    kind: ErrorKind
    retryable: bool
    status: int | None = None
    retry_after_ms: int | None = None
    retry_max_output_tokens: int | None = None


@value_class(frozen=True, kw_only=True, slots=True)
class Reply:
    parts: tuple[ScriptedPart, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    """None: estimated from the lengths."""
    error: ScriptedError | None = None
    delay_ms: int = 0
    """Before anything is sent."""
    chunk_delay_ms: int = 0
    """Before each piece of text."""
    chunk_chars: int = DEFAULT_CHUNK_CHARS
    hang: bool = False
    """Send the texts, then nothing more until cancelled."""


@value_class(frozen=True, kw_only=True, slots=True)
class Rule:
    label: str
    """How messages name it: its number, and its name when it has one."""
    when: When
    reply: Reply


@value_class(frozen=True, kw_only=True, slots=True)
class Script:
    """A whole scripted model."""

    rules: tuple[Rule, ...]
    fallback: Reply | None = None
    """What is answered when no rule holds; None makes that an error."""
    source: str = "script"
