"""ask_user_question: the model asks a human and waits for the answer."""

from __future__ import annotations

from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.tools.failures import ToolFailure
from kheish.tools.fields import array, boolean, closed, flag, number, objects, optional_text, string, text_of, whole
from kheish.tools.protocol import QuestionAsked, Replay, Sandbox, ToolCall, ToolDescriptor, ToolOutcome

MAX_QUESTIONS = 4
LATEST_MS = 253_402_300_799_999
"""The end of the year 9999: what is later fits into no clock."""
OPTIONS = range(2, 5)
"""How many options a question may offer, when it offers any."""

_OPTION = closed(
    {
        "id": string("Defaults to option-<n>."),
        "label": string("What the person chooses; unique within the question."),
        "description": string("What choosing it means."),
        "preview": string("A sample of the result, shown beside the option."),
    },
    required=["label"],
)
_QUESTION = closed(
    {
        "id": string("Defaults to question-<n>."),
        "header": string("A short title; defaults to Question <n>."),
        "question": string("The question itself."),
        "options": array("2 to 4 options; leave out to get an answer in free text.", _OPTION),
        "multi_select": boolean("Whether several options may be chosen (default false)."),
    },
    required=["question"],
)


class AskUserQuestion:
    """A `QuestionTool`: turns its input into questions and never runs."""

    descriptor = ToolDescriptor(
        name="ask_user_question",
        description=(
            "Ask the user 1 to 4 questions and wait for the answers. Use it only when the answer changes what you do "
            "and cannot be found out otherwise. Every question can also be answered in free text."
        ),
        schema=closed(
            {
                "questions": array("1 to 4 questions.", _QUESTION),
                "expires_at_ms": number("Unix time in milliseconds after which no answer is awaited."),
                "expires_after_ms": number("Milliseconds after which no answer is awaited; not with expires_at_ms."),
            },
            required=["questions"],
        ),
        timeout_ms=10_000,
        sandbox=Sandbox.INHERITED,
        allows_parallel=False,
        replay=Replay.TRANSACTIONAL,
        asks_human=True,
    )

    def ask(self, call: ToolCall) -> QuestionAsked | ToolOutcome:
        try:
            return _asked(call.input)
        except ToolFailure as failure:
            return failure.outcome(call.name)


def _asked(fields: JsonObject) -> QuestionAsked:
    given = objects(fields, "questions")
    if not 1 <= len(given) <= MAX_QUESTIONS:
        raise ToolFailure(f"`questions` must hold 1 to {MAX_QUESTIONS} questions, got {len(given)}")
    expires_at = _time(fields, "expires_at_ms")
    expires_after = _time(fields, "expires_after_ms")
    if expires_at is not None and expires_after is not None:
        raise ToolFailure("give `expires_at_ms` or `expires_after_ms`, not both")
    questions = [_question(question, index) for index, question in enumerate(given)]
    _unique([str(question["id"]) for question in questions], "two questions have the id")
    _unique([str(question["question"]).casefold() for question in questions], "two questions ask")
    return QuestionAsked(questions=tuple(questions), expires_at_ms=expires_at, expires_after_ms=expires_after)


def _time(fields: JsonObject, name: str) -> int | None:
    value = whole(fields, name)
    if value is not None and value > LATEST_MS:
        raise ToolFailure(f"`{name}` must not be later than the year 9999")
    return value


def _question(fields: JsonObject, index: int) -> JsonObject:
    where = f"questions[{index}]"
    given = objects(fields, "options")
    if given and len(given) not in OPTIONS:
        raise ToolFailure(f"`{where}.options` must hold {OPTIONS[0]} to {OPTIONS[-1]} options, got {len(given)}")
    options = [_option(option, f"{where}.options[{at}]", at + 1) for at, option in enumerate(given)]
    _unique([str(option["id"]) for option in options], f"`{where}.options`: two options have the id")
    _unique([str(option["label"]) for option in options], f"`{where}.options`: two options have the label")
    return {
        "id": _named(fields, "id", where, default=f"question-{index + 1}"),
        "header": _named(fields, "header", where, default=f"Question {index + 1}"),
        "question": _named(fields, "question", where),
        "options": list[JsonValue](options),
        "multi_select": flag(fields, "multi_select"),
    }


def _option(fields: JsonObject, where: str, position: int) -> JsonObject:
    option: JsonObject = {
        "id": _named(fields, "id", where, default=f"option-{position}"),
        "label": _named(fields, "label", where),
    }
    for name in ("description", "preview"):
        text = optional_text(fields, name)
        if text is not None:
            option[name] = text
    return option


def _named(fields: JsonObject, name: str, where: str, *, default: str | None = None) -> str:
    """Read a text that must not be blank; surrounding space never tells two apart."""
    if default is not None and fields.get(name) is None:
        return default
    text = text_of(fields, name).strip()
    if not text:
        raise ToolFailure(f"`{where}.{name}` must not be blank")
    return text


def _unique(values: list[str], complaint: str) -> None:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise ToolFailure(f"{complaint} {value!r}")
        seen.add(value)
