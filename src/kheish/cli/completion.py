"""Shell completion: prints the script that a shell asks to complete commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from kheish.cli.root import CommandLeaf

_SHELLS = ("bash", "zsh", "fish")


@click.command(cls=CommandLeaf)
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what makes SHELL complete commands and options.

    \b
    bash:  echo 'source <(kheish-daemon completion bash)' >> ~/.bashrc
    zsh:   echo 'source <(kheish-daemon completion zsh)' >> ~/.zshrc    (after compinit)
    fish:  kheish-daemon completion fish > ~/.config/fish/completions/kheish-daemon.fish
    """
    found = get_completion_class(shell)
    assert found is not None, "one of click's own"
    root = context.find_root()
    program = root.info_name or "kheish-daemon"
    # The name under which the executable itself looks for the shell's question.
    variable = f"_{program.replace('-', '_').upper()}_COMPLETE"
    click.echo(found(root.command, {}, program, variable).source())
