from __future__ import annotations

import pytest

from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.tools.protocol import QuestionAsked, ToolCall, ToolOutcome
from kheish.tools.questions import AskUserQuestion
from kheish.tools.registry import ToolRegistry
from kheish.tools.runtime import ToolRuntime

YES_NO: list[JsonValue] = [{"label": "Yes"}, {"label": "No"}]


def _ask(**fields: JsonValue) -> QuestionAsked | ToolOutcome:
    call = ToolCall(id="call-1", name="ask_user_question", input=fields)
    return ToolRuntime(ToolRegistry([AskUserQuestion()])).ask(call)


def _error(**fields: JsonValue) -> str:
    outcome = _ask(**fields)
    assert isinstance(outcome, ToolOutcome)
    assert outcome.is_error
    assert isinstance(outcome.output, dict)
    assert outcome.output["tool"] == "ask_user_question"
    return str(outcome.output["error"])


def test_a_question_gets_its_default_id_header_and_option_ids() -> None:
    asked = _ask(questions=[{"question": "Ship it?", "options": YES_NO}], expires_after_ms=5)

    assert asked == QuestionAsked(
        questions=(
            {
                "id": "question-1",
                "header": "Question 1",
                "question": "Ship it?",
                "options": [{"id": "option-1", "label": "Yes"}, {"id": "option-2", "label": "No"}],
                "multi_select": False,
            },
        ),
        expires_after_ms=5,
    )


@pytest.mark.parametrize("options", [{}, {"options": []}, {"options": None}])
def test_a_question_without_options_is_answered_in_free_text(options: JsonObject) -> None:
    asked = _ask(questions=[{"question": "Which name?", **options}])

    assert isinstance(asked, QuestionAsked)
    assert asked.questions[0]["options"] == []


def test_what_the_model_names_is_kept() -> None:
    option: JsonObject = {"id": "pg", "label": "PostgreSQL", "description": "a server", "preview": "postgres://"}
    unnamed: JsonObject = {"label": "SQLite"}
    question: JsonObject = {
        "id": "db",
        "header": "Store",
        "question": "Which?",
        "options": [option, unnamed],
        "multi_select": True,
    }

    asked = _ask(questions=[question], expires_at_ms=17)

    assert isinstance(asked, QuestionAsked)
    assert asked.expires_at_ms == 17
    assert asked.questions == ({**question, "options": [option, {"id": "option-2", **unnamed}]},)


@pytest.mark.parametrize("count", [0, 5])
def test_none_or_five_questions_are_refused(count: int) -> None:
    questions: list[JsonValue] = [{"question": f"Q{index}?", "options": YES_NO} for index in range(count)]

    assert _error(questions=questions) == f"`questions` must hold 1 to 4 questions, got {count}"


@pytest.mark.parametrize("count", [1, 5])
def test_one_or_five_options_are_refused(count: int) -> None:
    options: list[JsonValue] = [{"label": f"L{index}"} for index in range(count)]

    assert "`questions[0].options` must hold 2 to 4 options" in _error(
        questions=[{"question": "Q?", "options": options}]
    )


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ([{"label": "Same"}, {"label": "Same "}], "label 'Same'"),
        ([{"id": "a", "label": "One"}, {"id": "a", "label": "Two"}], "id 'a'"),
        ([{"id": "option-2", "label": "One"}, {"label": "Two"}], "id 'option-2'"),
    ],
)
def test_options_that_cannot_be_told_apart_are_refused(options: list[JsonValue], word: str) -> None:
    assert word in _error(questions=[{"question": "Q?", "options": options}])


def test_questions_that_cannot_be_told_apart_are_refused() -> None:
    assert "two questions ask 'again?'" in _error(questions=[{"question": "Again?"}, {"question": "again?"}])
    assert "id 'x'" in _error(questions=[{"id": "x", "question": "One?"}, {"id": "x", "question": "Two?"}])


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"expires_at_ms": 1, "expires_after_ms": 1}, "not both"),
        ({"expires_after_ms": 0}, "`expires_after_ms`"),
        ({"expires_at_ms": -1}, "`expires_at_ms`"),
        ({"expires_after_ms": 1.5}, "`expires_after_ms`"),
        ({"expires_after_ms": 2**64 - 1}, "year 9999"),
        ({"expires_at_ms": 2**63}, "year 9999"),
    ],
)
def test_an_expiry_is_one_positive_whole_number(fields: JsonObject, word: str) -> None:
    assert word in _error(questions=[{"question": "Q?"}], **fields)


@pytest.mark.parametrize(
    ("question", "word"),
    [
        ({"question": " "}, "`questions[0].question`"),
        ({"question": "Q?", "id": ""}, "`questions[0].id`"),
        ({"question": "Q?", "header": "\n"}, "`questions[0].header`"),
        ({"question": "Q?", "options": [{"label": ""}, {"label": "b"}]}, "`questions[0].options[0].label`"),
    ],
)
def test_a_blank_text_is_refused_by_name(question: JsonObject, word: str) -> None:
    assert f"{word} must not be blank" in _error(questions=[question])
