"""The executable `kheish-daemon`."""

from __future__ import annotations

import gc
from collections.abc import Sequence

import click

from kheish.cli.root import RootCommand
from kheish.daemon.commands import COMMANDS

PROGRAM = "kheish-daemon"
_NEW_OBJECTS_PER_COLLECTION = 100_000
"""A command is mostly imports, and they leave next to no garbage to look for. Only one that watches gets this far."""


def build() -> RootCommand:
    """The root command with every command below it."""
    root = RootCommand(
        name=PROGRAM,
        help="A daemon that runs agents durably, and the client that operates it.",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    root.add_entries(COMMANDS)
    root.params.append(
        click.Option(
            ["-V", "--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_print_version,
            help="Show the version.",
        )
    )
    return root


def main(words: Sequence[str] | None = None) -> None:
    """Run one command line and exit with its code."""
    gc.set_threshold(_NEW_OBJECTS_PER_COLLECTION)
    build().main(args=words, prog_name=PROGRAM)


def _print_version(context: click.Context, _parameter: click.Parameter, asked: bool) -> None:
    if not asked or context.resilient_parsing:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        click.echo(f"{PROGRAM} {version('kheish')}")
    except PackageNotFoundError:
        click.echo(f"{PROGRAM} (not installed)")
    context.exit()
