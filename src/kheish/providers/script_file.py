"""Reading a script: TOML or JSON in, a checked `Script` out. The format is described in docs/scripted-model.md."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from kheish.core.jsonvalue import decode
from kheish.core.messages import FinishReason, Usage
from kheish.core.values import value_class
from kheish.providers.protocol import ErrorKind
from kheish.providers.script import (
    DEFAULT_CHUNK_CHARS,
    NumberTest,
    Reply,
    ResultTest,
    Rule,
    Script,
    ScriptedCall,
    ScriptedError,
    ScriptedPart,
    ScriptedText,
    ScriptedThought,
    TextTest,
    When,
)
from kheish.providers.script_template import Template, TemplateFault, TemplateValue, parse_template
from kheish.providers.tables import RoutesError, Table, parse_toml

_RETRYABLE = frozenset({ErrorKind.RATE_LIMITED, ErrorKind.SERVER_OVERLOADED, ErrorKind.TRANSPORT})
_LONGEST_DELAY_MS = 600_000


def load_script(path: Path, *, where: str) -> Script:
    """Read a script; ``where`` names what refers to it. A path that ends in `.json` is JSON, any other TOML.

    Raises:
        RoutesError: the file cannot be read or breaks the format; the message names file, rule and key.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RoutesError(f"{where}: script: {path}: {error.strerror or 'cannot be read'}") from None
    source = f"{where}: script {path}"
    if path.suffix != ".json":
        return parse_script(parse_toml(data, source=source), source=source)
    try:
        content = decode(data)
    except ValueError:
        content = None
    if content is None:  # outside the handler: the parser's message could quote the file
        raise RoutesError(f"{source}: not valid JSON")
    return parse_script(content, source=source)


def parse_script(content: object, *, source: str = "script") -> Script:
    """Check a script that is already plain data.

    Raises:
        RoutesError: it breaks the format; the message names the rule and the key.
    """
    top = Table(content, source)
    if top.integer("version") not in (None, 1):
        top.fail("version", "must be 1")
    pace = _pace(top, _Pace())
    rules = tuple(_rule(entry, number, source, pace) for number, entry in enumerate(top.several("rules"), start=1))
    fallback = None
    if "fallback" in top:
        table = Table(top.take("fallback"), f"{source}: fallback")
        fallback = _reply(table, pace)
    top.done()
    if not rules and fallback is None:
        raise RoutesError(f"{source}: rules: at least one rule or a fallback is required")
    return Script(rules=rules, fallback=fallback, source=source)


@value_class(frozen=True, kw_only=True, slots=True)
class _Pace:
    """How fast a reply is sent: taken from the reply, else from the top of the script."""

    delay_ms: int = 0
    chunk_delay_ms: int = 0
    chunk_chars: int = DEFAULT_CHUNK_CHARS


def _pace(table: Table, base: _Pace) -> _Pace:
    delay = table.integer("delay_ms", maximum=_LONGEST_DELAY_MS)
    chunk_delay = table.integer("chunk_delay_ms", maximum=_LONGEST_DELAY_MS)
    chunk_chars = table.integer("chunk_chars", minimum=1)
    return _Pace(
        delay_ms=base.delay_ms if delay is None else delay,
        chunk_delay_ms=base.chunk_delay_ms if chunk_delay is None else chunk_delay,
        chunk_chars=base.chunk_chars if chunk_chars is None else chunk_chars,
    )


def _rule(entry: object, number: int, source: str, pace: _Pace) -> Rule:
    label = f"rule {number}"
    table = Table(entry, f"{source}: {label}")
    name = table.text("name")
    if name is not None:
        label = f'{label} "{name}"'
        table.where = f"{source}: {label}"
    when = When()
    if "when" in table:
        conditions = Table(table.take("when"), f"{table.where}: when")
        when = _when(conditions)
        conditions.done()
    reply = _reply(table, pace)
    return Rule(label=label, when=when, reply=reply)


def _when(table: Table) -> When:
    return When(
        turn=_number_test(table, "turn"),
        user_turn=_number_test(table, "user_turn"),
        max_output_tokens=_number_test(table, "max_output_tokens"),
        user=_text_test(table, "user"),
        any_user=_text_test(table, "any_user"),
        assistant=_text_test(table, "assistant"),
        system=_text_test(table, "system"),
        model=_text_test(table, "model"),
        tools=table.texts("tools"),
        without_tools=table.texts("without_tools"),
        results=_result_tests(table, "result"),
        any_results=_result_tests(table, "any_result"),
        no_results=_result_tests(table, "no_result"),
    )


def _number_test(table: Table, key: str) -> NumberTest | None:
    value = table.take(key)
    if value is None:
        return None
    if isinstance(value, Mapping):
        bounds = Table(value, f"{table.where}: {key}")
        test = NumberTest(minimum=bounds.integer("min"), maximum=bounds.integer("max"))
        bounds.done()
        return test
    listed = value if isinstance(value, list) else [value]
    numbers = tuple(item for item in listed if isinstance(item, int) and not isinstance(item, bool))
    if not numbers or len(numbers) != len(listed):
        table.fail(key, "must be a number, a list of numbers, or { min, max }")
    return NumberTest(values=numbers)


def _text_test(table: Table, key: str) -> TextTest | None:
    value = table.take(key)
    if value is None:
        return None
    if isinstance(value, str):
        return TextTest(contains=(value,))
    inner = Table(value, f"{table.where}: {key}")
    test = _text_tests(inner)
    inner.done()
    return test


def _text_tests(table: Table) -> TextTest:
    regex = table.text("regex", blank=True)
    contains = table.several("contains")
    parts = tuple(part for part in contains if isinstance(part, str))
    if len(parts) != len(contains):
        table.fail("contains", "must be a string or a list of strings")
    try:
        compiled = None if regex is None else re.compile(regex)
    except re.error as error:
        table.fail("regex", f"is not a valid regular expression (at position {error.pos})")
    return TextTest(contains=parts, equals=table.text("equals", blank=True), regex=compiled)


def _result_tests(table: Table, key: str) -> tuple[ResultTest, ...]:
    tests: list[ResultTest] = []
    for entry in table.several(key):
        if isinstance(entry, str):
            tests.append(ResultTest(text=TextTest(contains=(entry,))))
            continue
        inner = Table(entry, f"{table.where}: {key}")
        tests.append(ResultTest(tool=inner.text("tool"), is_error=inner.flag("is_error"), text=_text_tests(inner)))
        inner.done()
    return tuple(tests)


def _reply(table: Table, base: _Pace) -> Reply:
    """Read the reply keys, which are the last of their table to be read."""
    pace = _pace(table, base)
    parts = _parts(table)
    error = None
    if "error" in table:
        inner = Table(table.take("error"), f"{table.where}: error")
        error = _error(inner)
        inner.done()
    usage = None
    if "usage" in table:
        inner = Table(table.take("usage"), f"{table.where}: usage")
        usage = _usage(inner)
        inner.done()
    hang = table.flag("hang") or False
    finish_reason = table.choice("finish_reason", FinishReason)
    table.done()
    if not parts and error is None and not hang and "text" not in table:
        raise RoutesError(f"{table.where}: a reply needs one of text, thought, calls, parts, error, hang")
    return Reply(
        parts=parts,
        finish_reason=finish_reason,
        usage=usage,
        error=error,
        delay_ms=pace.delay_ms,
        chunk_delay_ms=pace.chunk_delay_ms,
        chunk_chars=pace.chunk_chars,
        hang=hang,
    )


def _parts(table: Table) -> tuple[ScriptedPart, ...]:
    for key in ("thought", "text", "calls"):
        table.refuse_together("parts", key)
    parts: list[ScriptedPart] = []
    thought = _template(table, "thought")
    if thought is not None:
        parts.append(ScriptedThought(text=thought))
    for item in table.several("text"):
        if not isinstance(item, str):
            table.fail("text", "must be a string or a list of strings")
        parts.append(ScriptedText(text=_parsed(table, "text", item)))
    for key in ("calls", "parts"):
        for number, entry in enumerate(table.several(key), start=1):
            inner = Table(entry, f"{table.where}: {key} {number}")
            parts.append(_call(inner) if key == "calls" or "tool" in inner else _text_or_thought(inner))
            inner.done()
    return tuple(parts)


def _text_or_thought(table: Table) -> ScriptedPart:
    table.refuse_together("text", "thought")
    text, thought = _template(table, "text"), _template(table, "thought")
    if text is not None:
        return ScriptedText(text=text)
    if thought is not None:
        return ScriptedThought(text=thought)
    raise RoutesError(f"{table.where}: needs one of text, thought, tool")


def _call(table: Table) -> ScriptedCall:
    table.refuse_together("input", "invalid_arguments")
    arguments = table.take("input")
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, Mapping):
        table.fail("input", "must be a table")
    return ScriptedCall(
        tool=table.required_text("tool"),
        input={str(key): _template_value(table, item) for key, item in arguments.items()},
        id=table.text("id", blank=True),
        invalid_arguments=table.text("invalid_arguments", blank=True),
    )


def _template_value(table: Table, value: object) -> TemplateValue:
    if isinstance(value, str):
        return _parsed(table, "input", value)
    if isinstance(value, Mapping):
        return {str(key): _template_value(table, item) for key, item in value.items()}
    if isinstance(value, list):
        return tuple(_template_value(table, item) for item in value)
    if value is not None and not isinstance(value, bool | int | float):
        table.fail("input", "dates and times have no JSON form; write them as strings")
    return value


def _template(table: Table, key: str) -> Template | None:
    text = table.text(key, blank=True)
    return None if text is None else _parsed(table, key, text)


def _parsed(table: Table, key: str, text: str) -> Template:
    try:
        return parse_template(text)
    except TemplateFault as fault:
        table.fail(key, str(fault))


def _error(table: Table) -> ScriptedError:
    kind = table.choice("kind", ErrorKind)
    if kind is None:
        table.fail("kind", "is required")
    retryable = table.flag("retryable")
    return ScriptedError(
        kind=kind,
        retryable=kind in _RETRYABLE if retryable is None else retryable,
        status=table.integer("status", minimum=100, maximum=599),
        retry_after_ms=table.integer("retry_after_ms", maximum=_LONGEST_DELAY_MS),
        retry_max_output_tokens=table.integer("retry_max_output_tokens", minimum=1),
    )


def _usage(table: Table) -> Usage:
    return Usage(
        input_tokens=table.integer("input_tokens") or 0,
        output_tokens=table.integer("output_tokens") or 0,
        cached_input_tokens=table.integer("cached_input_tokens") or 0,
    )
