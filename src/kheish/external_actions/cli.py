"""Commands of the trail of external actions; they work on files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from kheish.cli.daemon_client import DaemonClient, pass_client
from kheish.cli.failures import Failure
from kheish.cli.offline import locally
from kheish.cli.progress import Progress
from kheish.cli.root import CommandGroup
from kheish.state.cli import state_root_option

F = TypeVar("F", bound=Callable[..., object])


@click.group(cls=CommandGroup)
def audit() -> None:
    """Verify and export what runs did outside of the daemon, and keep the key that signs it."""


def _key_file(function: F) -> F:
    return click.option(
        "--audit-signing-key-file",
        "key_file",
        envvar="KHEISH_EXTERNAL_ACTION_AUDIT_SIGNING_KEY_FILE",
        show_envvar=True,
        metavar="FILE",
        type=click.Path(),
        help="As for `serve`.  [default: audit-signing.key in the state root]",
    )(function)


_to = click.option(
    "--to", "target", required=True, metavar="FILE", type=click.Path(path_type=Path), help="A file that does not exist."
)


@audit.command()
@click.option(
    "--state-root",
    envvar="KHEISH_STATE_ROOT",
    show_envvar=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="What the daemon was started with.",
)
@click.option("--folder", metavar="DIR", type=click.Path(path_type=Path), help="An export, instead of a state root.")
@click.option("--key-id", "key_ids", multiple=True, metavar="HEX", help="A public key to believe; repeat.")
@_key_file
@pass_client
def verify(
    client: DaemonClient, state_root: Path | None, folder: Path | None, key_ids: tuple[str, ...], key_file: str | None
) -> None:
    """Check every record's hash, signature and place; works while the daemon runs.

    Ends with status 1 when a record is not as it was signed. Names the first bad record of each bucket.
    """
    from kheish.external_actions.offline import verify_folder, verify_state

    with Progress("audit") as progress:
        if folder is not None:
            report = locally(lambda: verify_folder(folder, key_ids, step=progress.step))
        elif state_root is not None:
            report = locally(lambda: verify_state(state_root, key_ids, key_file, step=progress.step))
        else:
            raise click.UsageError("Give --state-root (or KHEISH_STATE_ROOT), or --folder.")
    client.print(report)
    if not report["ok"]:
        raise Failure(f"{report['fault_count']} buckets of external actions are not as they were signed")


@audit.command()
@state_root_option
@click.option(
    "--folder", required=True, metavar="DIR", type=click.Path(path_type=Path), help="An empty folder, or a new one."
)
@pass_client
def export(client: DaemonClient, state_root: Path, folder: Path) -> None:
    """Write a ledger and a checkpoint per run; works while the daemon runs."""
    from kheish.external_actions.offline import export as write_out

    with Progress("audit") as progress:
        report = locally(lambda: write_out(state_root, folder, step=progress.step))
    client.print(report)
    if report["damaged_bucket_count"]:
        raise Failure(f"{report['damaged_bucket_count']} buckets could not be read and are left out")


@audit.command("relocate-key")
@_to
@state_root_option
@pass_client
def relocate_key(client: DaemonClient, target: Path, state_root: Path) -> None:
    """Move the signing key out of the state root; the daemon must be stopped."""
    from kheish.external_actions.rekeying import relocate

    client.print(locally(lambda: relocate(state_root, target)))


@audit.command("rotate-key")
@_to
@state_root_option
@_key_file
@click.option("--present-key-lost", "lost", is_flag=True, help="Vouch for what is there without the present key.")
@pass_client
def rotate_key(client: DaemonClient, target: Path, state_root: Path, key_file: str | None, lost: bool) -> None:
    """Make a new signing key that vouches for the records of the present one; the daemon must be stopped."""
    from kheish.external_actions.offline import named_key
    from kheish.external_actions.rekeying import rotate

    client.print(locally(lambda: rotate(state_root, target, named_key(key_file), lost=lost)))
