"""The options every command takes, before or after its name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import click
from click.core import ParameterSource

from kheish.cli.failures import Failure
from kheish.cli.output import Form

DEFAULT_BASE_URL = "http://127.0.0.1:4000"
_KEY = "kheish.cli.global_options"


@dataclass(kw_only=True, slots=True)
class GlobalOptions:
    """What was given so far; flags are collected while the words of the command line are read."""

    flags: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def output(self) -> Form:
        return cast("Form", self.flags.get("output", "pretty"))

    @property
    def base_url(self) -> str:
        """Without a trailing slash."""
        found = self.flags.get("base_url") or self.environment.get("base_url") or DEFAULT_BASE_URL
        return found.strip().rstrip("/")

    def token(self) -> str | None:
        """The bearer token: a flag beats the environment.

        Raises:
            Failure: two tokens are named, one is blank, or the file cannot be read.
        """
        given = self.flags if {"token", "token_file"} & set(self.flags) else self.environment
        if "token" in given and "token_file" in given:
            raise Failure("give a token or a token file, not both")
        token = _from_file(given["token_file"]) if "token_file" in given else given.get("token")
        if token is not None and not token.strip():
            raise Failure("the token is blank")
        return None if token is None else token.strip()


def global_options(context: click.Context) -> GlobalOptions:
    """The options of this invocation, shared by the root and every command below it."""
    found: GlobalOptions = context.meta.setdefault(_KEY, GlobalOptions())
    return found


def _record(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is None or parameter.name is None:
        return
    options = global_options(context)
    if context.get_parameter_source(parameter.name) is ParameterSource.ENVIRONMENT:
        options.environment[parameter.name] = value
        return
    if not value.strip():
        raise click.BadParameter("must not be blank", context, parameter)
    options.flags[parameter.name] = value
    if {"token", "token_file"} <= set(options.flags):
        raise click.UsageError("--token and --token-file exclude each other", context)


def _from_file(path: str) -> str:
    try:
        # Every `--help` would wait for pathlib.
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise Failure(f"cannot read the token file {path}: {reason}") from None


def _declare(*, shown: bool) -> tuple[click.Option, ...]:
    # Only the root reads the environment, so that a flag anywhere beats it.
    def option(name: str, env: str | None, help_text: str, type: click.Choice[str] | None = None) -> click.Option:
        return click.Option(
            [name],
            type=type,
            envvar=env if shown else None,
            show_envvar=True,
            hidden=not shown,
            expose_value=False,
            callback=_record,
            help=help_text,
        )

    return (
        option("--base-url", "KHEISH_DAEMON_URL", f"The daemon's address.  [default: {DEFAULT_BASE_URL}]"),
        option("--token", "KHEISH_DAEMON_TOKEN", "Bearer token; other users see arguments, a file is safer."),
        option("--token-file", "KHEISH_DAEMON_TOKEN_FILE", "File that holds the bearer token."),
        option(
            "--output",
            None,
            "Indented JSON, or one line.  [default: pretty]",
            type=click.Choice(["pretty", "json"]),
        ),
    )


SHOWN: Sequence[click.Option] = _declare(shown=True)
"""On the root command."""
HIDDEN: Sequence[click.Option] = _declare(shown=False)
"""On every other command: accepted there, listed once."""
NAMES = frozenset(name for option in SHOWN for name in option.opts)
