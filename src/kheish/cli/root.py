"""Groups of commands that import a command only when it is used, and the root of them all."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from importlib import import_module

import click
from click.shell_completion import CompletionItem

from kheish.cli import global_options
from kheish.core.values import value_class

DEFAULT_COMMAND = "serve"
_ANSWERED_BY_ROOT = frozenset({"-h", "--help", "-V", "--version"})


@value_class(frozen=True, kw_only=True, slots=True)
class CommandEntry:
    """A command that is imported when it is used."""

    name: str
    target: str
    """`module:attribute`."""
    help: str
    aliases: tuple[str, ...] = ()

    def load(self) -> click.Command:
        """Import the command."""
        module, _, attribute = self.target.partition(":")
        command = getattr(import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{self.target} is no command")
        return command


class CommandLeaf(click.Command):
    """A command that takes the global options too."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Own parameters, then the global ones."""
        return [*super().get_params(ctx), *global_options.HIDDEN]


class CommandGroup(click.Group):
    """A group with aliases, and with commands that live elsewhere."""

    command_class = CommandLeaf

    @cached_property
    def aliases(self) -> dict[str, str]:
        """Another name -> the command's name."""
        return {}

    @cached_property
    def elsewhere(self) -> dict[str, CommandEntry]:
        """Commands that are imported when they are used, by name."""
        return {}

    def add_entries(self, entries: Sequence[CommandEntry]) -> None:
        """Take in commands by their address."""
        for entry in entries:
            self.elsewhere[entry.name] = entry
            self.aliases.update((alias, entry.name) for alias in entry.aliases)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Own parameters, then the global ones."""
        return [*super().get_params(ctx), *global_options.HIDDEN]

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of declaration."""
        return [*self.commands, *(name for name in self.elsewhere if name not in self.commands)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command with this name or alias, imported now if need be."""
        name = self.aliases.get(cmd_name, cmd_name)
        if name in self.commands:
            return self.commands[name]
        entry = self.elsewhere.get(name)
        return None if entry is None else entry.load()

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        """Commands, none of them imported, and options."""
        texts = {name: command.get_short_help_str() for name, command in self.commands.items() if not command.hidden}
        texts.update((name, entry.help) for name, entry in self.elsewhere.items())
        found = [CompletionItem(name, help=texts[name]) for name in self.list_commands(ctx) if name in texts]
        options = click.Command.shell_complete(self, ctx, incomplete)
        return [*(item for item in found if item.value.startswith(incomplete)), *options]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List every command with its aliases, importing none of them."""
        rows = []
        for name in self.list_commands(ctx):
            names = ", ".join([name, *(alias for alias, target in self.aliases.items() if target == name)])
            own = self.commands.get(name)
            if own is None:
                rows.append((names, self.elsewhere[name].help))
            elif not own.hidden:
                rows.append((names, own.get_short_help_str(limit=100)))
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


class RootCommand(CommandGroup):
    """The executable: without a command it serves."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Own parameters, then the global ones with their help."""
        return [*click.Group.get_params(self, ctx), *global_options.SHOWN]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the global options; put the default command where none is named."""
        words = with_default_command(args)
        # While a shell completes, a command that is missing may still be typed.
        missing = ctx.resilient_parsing and words[-1:] == [DEFAULT_COMMAND]
        return super().parse_args(ctx, args if missing else words)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        """Commands and options; also those of the default command, which needs no name."""
        found = super().shell_complete(ctx, incomplete)
        default = self.get_command(ctx, DEFAULT_COMMAND) if incomplete.startswith("-") else None
        if default is not None:
            below = click.Context(default, parent=ctx, info_name=DEFAULT_COMMAND, resilient_parsing=True)
            known = {item.value for item in found}
            found += [item for item in default.shell_complete(below, incomplete) if item.value not in known]
        return found


def with_default_command(words: Sequence[str]) -> list[str]:
    """Insert `serve` before the first word that is no global option, when that word is an option or missing."""
    index = 0
    while index < len(words):
        name, equals, _ = words[index].partition("=")
        if name not in global_options.NAMES:
            break
        index += 1 if equals else 2
    if index > len(words) or (index < len(words) and not _belongs_to_default(words[index])):
        return list(words)
    return [*words[:index], DEFAULT_COMMAND, *words[index:]]


def _belongs_to_default(word: str) -> bool:
    return word.startswith("-") and word not in _ANSWERED_BY_ROOT
