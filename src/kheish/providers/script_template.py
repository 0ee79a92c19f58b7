"""`${...}` in scripts: quotes the user, tool results and match groups into texts and arguments."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field

from kheish.core.jsonvalue import JsonValue, decode, encode
from kheish.core.values import value_class

_PLACEHOLDER = re.compile(r"\$\$\{|\$\{([^{}]*)\}")
_HEAD = re.compile(r"(?P<name>[a-z_]+)(?::(?P<tool>[A-Za-z0-9_-]+))?(?:\[(?P<index>-?\d+)\])?")
_STEP = re.compile(r"\.(?P<key>[A-Za-z0-9_$@-]+)|\[(?P<index>-?\d+)\]|\[\"(?P<quoted>[^\"]*)\"\]")


class TemplateFault(Exception):
    """A template is malformed, or what it quotes is not there. The message is the reason."""


@value_class(frozen=True, kw_only=True, slots=True)
class ToolOutcome:
    """One tool result of the conversation."""

    tool: str
    output: JsonValue
    is_error: bool = False


@value_class(frozen=True, kw_only=True, slots=True)
class Scene:
    """What a template can quote."""

    users: Sequence[str]
    results: Sequence[ToolOutcome]
    system: str
    model: str
    turn: int
    tools: Sequence[str]
    match: Mapping[str, str] = field(default_factory=dict)


@value_class(frozen=True, kw_only=True, slots=True)
class Quote:
    """One parsed `${...}`."""

    source: str
    name: str
    tool: str | None
    index: int | None
    steps: tuple[str | int, ...]
    default: str | None
    filters: tuple[tuple[str, str], ...]

    def value(self, scene: Scene) -> JsonValue:
        """Look the value up.

        Raises:
            TemplateFault: it is not there and the quote names no default.
        """
        try:
            value = _start(self, scene)
            for step in self.steps:
                value = _descend(value, step)
        except (KeyError, IndexError):
            if self.default is None:
                raise TemplateFault(f"${{{self.source}}} is not there") from None
            value = self.default
        for name, argument in self.filters:
            value = _FILTERS[name](value, argument)
        return value


@value_class(frozen=True, kw_only=True, slots=True)
class Template:
    """A text with quotes in it."""

    pieces: tuple[str | Quote, ...]

    def text(self, scene: Scene) -> str:
        """Fill in; values that are not strings become compact JSON."""
        return "".join(piece if isinstance(piece, str) else as_text(piece.value(scene)) for piece in self.pieces)

    def value(self, scene: Scene) -> JsonValue:
        """Fill in; a template that is one quote and nothing else keeps the JSON type of what it quotes."""
        if len(self.pieces) == 1 and isinstance(self.pieces[0], Quote):
            return self.pieces[0].value(scene)
        return self.text(scene)


TemplateValue = Template | None | bool | int | float | tuple["TemplateValue", ...] | Mapping[str, "TemplateValue"]


def parse_template(text: str) -> Template:
    """Parse a text.

    Raises:
        TemplateFault: a `${...}` in it is not understood.
    """
    pieces: list[str | Quote] = []
    end = 0
    for found in _PLACEHOLDER.finditer(text):
        pieces.append(text[end : found.start()])
        pieces.append("${" if found[1] is None else _parse_quote(found[1]))
        end = found.end()
    pieces.append(text[end:])
    if any(isinstance(piece, str) and "${" in piece and piece != "${" for piece in pieces):
        raise TemplateFault("a ${ is not closed, or holds braces; write $${ for a literal ${")
    return Template(pieces=tuple(piece for piece in pieces if piece != ""))


def fill(value: TemplateValue, scene: Scene) -> JsonValue:
    """Fill in every template inside a JSON value."""
    if isinstance(value, Template):
        return value.value(scene)
    if isinstance(value, Mapping):
        return {key: fill(item, scene) for key, item in value.items()}
    if isinstance(value, tuple):
        return [fill(item, scene) for item in value]
    return value


def as_text(value: JsonValue) -> str:
    return value if isinstance(value, str) else encode(value).decode()


def _parse_quote(source: str) -> Quote:
    expression, *filters = source.split("|")
    path, has_default, default = expression.partition("??")
    path = path.strip()
    head = _HEAD.match(path)
    if head is None or head["name"] not in _NAMES:
        raise TemplateFault(f"${{...}} must begin with one of {', '.join(_NAMES)}")
    if head["tool"] is not None and head["name"] not in ("result", "results"):
        raise TemplateFault(f"{head['name']} takes no tool name")
    if head["index"] is not None and head["name"] not in ("result", "user"):
        raise TemplateFault(f"{head['name']} takes no index of its own")
    steps: list[str | int] = []
    position = head.end()
    while position < len(path):
        step = _STEP.match(path, position)
        if step is None:
            raise TemplateFault('a path is made of .name, [number] and ["name"]')
        key = step["key"] if step["key"] is not None else step["quoted"]
        steps.append(int(step["index"]) if key is None else key)
        position = step.end()
    return Quote(
        source=source.strip(),
        name=head["name"],
        tool=head["tool"],
        index=None if head["index"] is None else int(head["index"]),
        steps=tuple(steps),
        default=default.strip() if has_default else None,
        filters=tuple(_parse_filter(text) for text in filters),
    )


def _parse_filter(text: str) -> tuple[str, str]:
    name, _, argument = text.strip().partition(":")
    if name not in _FILTERS:
        raise TemplateFault(f"a filter must be one of {', '.join(_FILTERS)}")
    if name == "head" and not argument.isdigit():
        raise TemplateFault("the filter head takes a number: head:5")
    return name, argument


def _start(quote: Quote, scene: Scene) -> JsonValue:
    match quote.name:
        case "user":
            return scene.users[-1 if quote.index is None else quote.index]
        case "result":
            return _of_tool(scene, quote.tool)[-1 if quote.index is None else quote.index].output
        case "results":
            return [outcome.output for outcome in _of_tool(scene, quote.tool)]
        case "match":
            return dict(scene.match)
        case "tools":
            return list(scene.tools)
        case "turn":
            return scene.turn
        case "model":
            return scene.model
    return scene.system


_NAMES = ("user", "result", "results", "match", "tools", "turn", "model", "system")


def _of_tool(scene: Scene, tool: str | None) -> Sequence[ToolOutcome]:
    return [outcome for outcome in scene.results if tool is None or outcome.tool == tool]


def _descend(value: JsonValue, step: str | int) -> JsonValue:
    if isinstance(value, str):  # a tool that answers with a JSON text
        try:
            value = decode(value)
        except ValueError:
            raise KeyError(step) from None
    if isinstance(value, dict):
        return value[str(step)]
    if isinstance(value, list):
        return value[int(step)] if isinstance(step, int) or step.lstrip("-").isdigit() else _missing(step)
    return _missing(step)


def _missing(step: str | int) -> JsonValue:
    raise KeyError(step)


def _items(value: JsonValue) -> list[JsonValue]:
    if isinstance(value, list):
        return value
    if isinstance(value, dict):
        return [*value]
    return [*as_text(value).splitlines()]


def _filter_json(value: JsonValue, _: str) -> JsonValue:
    return encode(value).decode()


def _filter_length(value: JsonValue, _: str) -> JsonValue:
    return len(value) if isinstance(value, str | list | dict) else len(as_text(value))


def _filter_lines(value: JsonValue, _: str) -> JsonValue:
    return _items(value)


def _filter_head(value: JsonValue, argument: str) -> JsonValue:
    return _items(value)[: int(argument)]


def _filter_join(value: JsonValue, argument: str) -> JsonValue:
    return (argument or ", ").join(as_text(item) for item in _items(value))


def _filter_bullets(value: JsonValue, _: str) -> JsonValue:
    return "\n".join(f"- {as_text(item)}" for item in _items(value))


def _filter_trim(value: JsonValue, _: str) -> JsonValue:
    return as_text(value).strip()


_FILTERS: dict[str, Callable[[JsonValue, str], JsonValue]] = {
    "json": _filter_json,
    "length": _filter_length,
    "lines": _filter_lines,
    "head": _filter_head,
    "join": _filter_join,
    "bullets": _filter_bullets,
    "trim": _filter_trim,
}
