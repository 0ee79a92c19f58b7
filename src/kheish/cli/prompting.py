"""Asking the human at the keyboard."""

from __future__ import annotations

import sys

import click

from kheish.cli.output import JsonObject, JsonValue, printable


def read_line(prompt: str) -> str:
    """One line from standard input, without its end.

    Raises:
        EOFError: there is no more.
        KeyboardInterrupt: the user pressed Ctrl-C.
    """
    if sys.stdin.isatty() and sys.stdout.isatty():
        # Importing it gives the line editing and a history.
        import readline  # noqa: F401

        return input(prompt)
    if sys.stdin.isatty():
        click.echo(prompt, nl=False, err=True)
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\r\n")


def ask_questions(request: JsonObject) -> list[JsonValue]:
    """Ask every question of a request and return the answers as the wire wants them.

    Raises:
        EOFError: standard input ended before all were answered.
    """
    return [_ask(question) for question in _list(request.get("questions")) if isinstance(question, dict)]


def _ask(question: JsonObject) -> JsonObject:
    options = [option for option in _list(question.get("options")) if isinstance(option, dict)]
    _say(str(question.get("question", "")))
    for number, option in enumerate(options, start=1):
        described = f" - {option['description']}" if option.get("description") else ""
        _say(f"  {number}. {option.get('label')}{described}")
    many = bool(question.get("multi_select"))
    if options:
        _say("  (numbers, separated by commas, or a text)" if many else "  (a number or a text)")
    while True:
        answer = _answer(read_line("> ").strip(), options, many=many)
        if answer is not None:
            return {"question_id": question.get("id"), **answer}
        _say("  that is no answer to this question")


def _answer(text: str, options: list[JsonObject], *, many: bool) -> JsonObject | None:
    """What was typed as option ids or text; None when it is neither."""
    if not text:
        return None
    numbers = [part.strip() for part in text.split(",")]
    if not options or not all(number.isascii() and number.isdecimal() for number in numbers):
        return {"freeform_answer": text}
    chosen = [int(number[:6]) for number in numbers]
    if any(not 1 <= number <= len(options) for number in chosen) or len(set(chosen)) != len(chosen):
        return None
    if len(chosen) > 1 and not many:
        return None
    return {"selected_option_ids": [options[number - 1].get("id") for number in chosen]}


def _list(value: JsonValue) -> list[JsonValue]:
    return value if isinstance(value, list) else []


def _say(text: str) -> None:
    click.echo(printable(text), err=True)
