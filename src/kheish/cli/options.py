"""Groups of options that several commands share, each read into one value."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from functools import update_wrapper
from pathlib import Path
from typing import TypeVar

import click

from kheish.cli.failures import Failure
from kheish.cli.output import JsonObject, JsonValue

F = TypeVar("F", bound=Callable[..., object])
Decorator = Callable[[F], F]


def bundled(name: str, build: Callable[..., object], options: Mapping[str, Callable[[F], F]]) -> Callable[[F], F]:
    """Add ``options`` (by parameter name) to a command, which gets ``build(**values)`` as its argument ``name``."""

    def decorate(function: F) -> F:
        def run(*args: object, **kwargs: object) -> object:
            kwargs[name] = build(**{option: kwargs.pop(option) for option in options})
            return function(*args, **kwargs)

        wrapped = update_wrapper(run, function)
        for option in reversed(list(options.values())):
            wrapped = option(wrapped)
        return wrapped  # type: ignore[return-value] # as above

    return decorate


def json_pair(name: str, help_text: str) -> Callable[[F], F]:
    """`--NAME-json TEXT` or `--NAME-file PATH`: parsed here, so that wrong JSON sends nothing."""
    flag = name.replace("_", "-")

    def build(**given: str | None) -> JsonValue:
        text, path = given[f"{name}_json"], given[f"{name}_file"]
        if text is not None and path is not None:
            raise click.UsageError(f"--{flag}-json and --{flag}-file exclude each other")
        if path is not None:
            return parse_json(read_text(path), path)
        return None if text is None else parse_json(text, f"--{flag}-json")

    return bundled(
        name,
        build,
        {
            f"{name}_json": click.option(f"--{flag}-json", metavar="JSON", help=help_text),
            f"{name}_file": click.option(
                f"--{flag}-file", metavar="PATH", type=click.Path(), help="The same, read from a file."
            ),
        },
    )


def text_source(name: str = "content") -> Callable[[F], F]:
    """Exactly one of a word on the command line, `--content-file` and `--stdin`."""

    def build(**given: str | bool | None) -> str:
        named = [option for option, value in given.items() if value not in (None, False)]
        if len(named) != 1:
            raise click.UsageError(f"give exactly one of {name.upper()}, --content-file and --stdin")
        if given["stdin"]:
            return read_stdin()
        path = given["content_file"]
        return read_text(path) if isinstance(path, str) else str(given["content"])

    return bundled(
        name,
        build,
        {
            "content": click.argument("content", required=False),
            "content_file": click.option(
                "--content-file", metavar="PATH", type=click.Path(), help="Read the text from a file."
            ),
            "stdin": click.option("--stdin", is_flag=True, help="Read the text from standard input."),
        },
    )


def _page_params(*, page: bool, limit: int | None, cursor: str | None) -> dict[str, str | int | bool | None]:
    return {"page": "true" if page else None, "limit": limit, "cursor": cursor}


def paging(function: F) -> F:
    """`--page --limit --cursor`, as the query parameters `page`."""
    return bundled(
        "page",
        lambda *, page_, limit, cursor: _page_params(page=page_, limit=limit, cursor=cursor),
        {
            "page_": click.option("--page", "page_", is_flag=True, help="Print an envelope with a cursor."),
            "limit": click.option("--limit", type=int, metavar="N", help="At most this many rows."),
            "cursor": click.option("--cursor", metavar="C", help="next_cursor of the page before; implies --page."),
        },
    )(function)


def expected_revision(function: F) -> F:
    """`--expected-revision`: change the setting only if nobody else did."""
    return click.option(
        "--expected-revision", type=int, metavar="N", help="Refuse when the settings have another revision."
    )(function)


def parse_json(text: str, origin: str) -> JsonValue:
    """Parse JSON a user gave.

    Raises:
        Failure: it is not JSON; names where it came from and what is wrong.
    """
    try:
        value: JsonValue = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Failure(f"{origin} is not valid JSON: {error}") from None
    return value


def parse_object(value: JsonValue, origin: str) -> JsonObject:
    """A JSON object a user gave.

    Raises:
        Failure: it is something else.
    """
    if not isinstance(value, dict):
        raise Failure(f"{origin} must be a JSON object")
    return value


def read_text(path: str) -> str:
    """A UTF-8 file a user named.

    Raises:
        Failure: it cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeError:
        raise Failure(f"{path} is not UTF-8 text") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise Failure(f"cannot read {path}: {reason}") from None


def read_stdin() -> str:
    """All of standard input as UTF-8.

    Raises:
        Failure: it is not UTF-8 text.
    """
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeError:
        raise Failure("standard input is not UTF-8 text") from None
