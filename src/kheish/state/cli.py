"""Commands on the files of a state root: verify, back up, restore, export, vacuum."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, TypeVar, cast

import click

from kheish.cli.daemon_client import DaemonClient, pass_client
from kheish.cli.failures import ExitCode, Failure
from kheish.cli.offline import locally
from kheish.cli.output import JsonObject
from kheish.cli.progress import Progress
from kheish.cli.root import CommandGroup, CommandLeaf

F = TypeVar("F", bound=Callable[..., object])


@click.group(cls=CommandGroup)
def state() -> None:
    """Check, copy and tidy up what a daemon keeps."""


def state_root_option(function: F) -> F:
    """`--state-root DIR`, as `state_root`."""
    return click.option(
        "--state-root",
        envvar="KHEISH_STATE_ROOT",
        show_envvar=True,
        required=True,
        metavar="DIR",
        type=click.Path(path_type=Path),
        help="What the daemon was started with.",
    )(function)


@state.command()
@state_root_option
@click.option("--quick", is_flag=True, help="Leave out the indexes of the database.")
@pass_client
def verify(client: DaemonClient, state_root: Path, quick: bool) -> None:
    """Check that everything is there and readable; works while the daemon runs.

    Ends with status 1 when something is lost or damaged.
    """
    from kheish.state.verify import verify as check

    with Progress("verify") as progress:
        report = locally(lambda: check(state_root, quick=quick, step=progress.step))
    client.print(report)
    if not report["ok"]:
        raise Failure(f"{report['error_count']} errors found in {state_root}")


@state.command()
@click.argument("directory", type=click.Path(path_type=Path))
@state_root_option
@pass_client
def backup(client: DaemonClient, directory: Path, state_root: Path) -> None:
    """Copy the state to DIRECTORY; works while the daemon runs, and goes on where it was interrupted."""
    from kheish.state.backup import backup as copy

    with Progress("backup") as progress:
        client.print(locally(lambda: copy(state_root, directory, _counted(progress))))


@state.command()
@click.argument("directory", type=click.Path(path_type=Path, exists=True, file_okay=False))
@state_root_option
@click.option("--replace", is_flag=True, help="Move a state that is there aside.")
@pass_client
def restore(client: DaemonClient, directory: Path, state_root: Path, replace: bool) -> None:
    """Make a state root from the backup in DIRECTORY; runs that were unfinished go on when a daemon starts on it."""
    from kheish.state.restore import restore as lay_out

    with Progress("restore") as progress:
        client.print(locally(lambda: lay_out(directory, state_root, replace=replace, progress=_counted(progress))))


def _counted(progress: Progress) -> Callable[[str, int, int], None]:
    return lambda what, done, total: progress.step(f"{what}, {done} of {total}")


@state.command()
@state_root_option
@click.option("--session", "session_id", metavar="ID", help="Only this session.")
@click.option(
    "--to",
    "target",
    metavar="FILE",
    type=click.Path(),
    help="A file that does not exist yet.  [default: standard output]",
)
@click.option(
    "--folder",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="An empty folder: a file per journal, per run and per run's events.",
)
@pass_client
def export(
    client: DaemonClient, state_root: Path, session_id: str | None, target: str | None, folder: Path | None
) -> None:
    """Write journals as JSON lines; works while the daemon runs.

    Ends with status 1 when a session could not be read; the others are written.
    """
    if folder is not None and target is not None:
        raise click.UsageError("--to and --folder exclude each other.")
    with Progress("export") as progress:
        if folder is not None:
            report = _export_folder(state_root, folder, session_id, progress)
        else:
            report = _export_lines(state_root, target, session_id, progress)
    if folder is not None or target not in (None, "-"):
        client.print({**report, "path": str(folder or target)})
    if report["damaged_session_count"]:
        named = ", ".join(str(one["session_id"]) for one in cast("list[JsonObject]", report["damaged_sessions"]))
        raise Failure(f"{report['damaged_session_count']} sessions could not be read and are left out: {named}")


def _export_folder(state_root: Path, folder: Path, session_id: str | None, progress: Progress) -> JsonObject:
    from kheish.state.layout import export_folder

    return locally(lambda: export_folder(state_root, folder, session_id=session_id, step=progress.step))


def _export_lines(state_root: Path, target: str | None, session_id: str | None, progress: Progress) -> JsonObject:
    from kheish.state.export import export as write_out

    if target in (None, "-"):
        out = sys.stdout.buffer
        report = locally(lambda: write_out(state_root, out.write, session_id=session_id, step=progress.step))
        out.flush()
        return report
    with _new_file(target) as file:
        try:
            report = locally(lambda: write_out(state_root, file.write, session_id=session_id, step=progress.step))
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            # Half an export must not be taken for a whole one.
            Path(target).unlink(missing_ok=True)
            raise
    return report


def _new_file(path: str) -> IO[bytes]:
    try:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
    except FileExistsError:
        raise Failure(f"{path} exists already; nothing is overwritten", ExitCode.REFUSED) from None
    except OSError as error:
        raise Failure(f"cannot write {path}: {error.strerror}") from None


@state.command()
@state_root_option
@pass_client
def vacuum(client: DaemonClient, state_root: Path) -> None:
    """Give free space back; the daemon must be stopped. The file as it was stays beside the new one."""
    from kheish.state.vacuum import vacuum as rewrite

    with Progress("vacuum") as progress:
        client.print(locally(lambda: rewrite(state_root, step=progress.step)))


@click.command(cls=CommandLeaf)
@click.argument("session_id")
@state_root_option
@pass_client
def vacuum_session(client: DaemonClient, session_id: str, state_root: Path) -> None:
    """Give free space back, as `state vacuum` does, and tell what is kept of one session."""
    from kheish.state.vacuum import vacuum_session as rewrite

    with Progress("vacuum") as progress:
        client.print(locally(lambda: rewrite(state_root, session_id, step=progress.step)))
