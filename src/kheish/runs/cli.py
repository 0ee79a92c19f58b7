"""Commands of runs."""

from __future__ import annotations

import click

from kheish.cli.daemon_client import DaemonClient, Params, pass_client
from kheish.cli.options import paging
from kheish.cli.output import JsonObject, JsonValue
from kheish.cli.root import CommandGroup
from kheish.cli.streams import cursor_option, follow_run
from kheish.cli.waiting import Wait, finish, wait_options


@click.group(cls=CommandGroup)
def runs() -> None:
    """Look at runs, wait for them, stop them."""


runs.aliases.update({"show": "get", "watch": "stream", "follow": "stream"})


@runs.command("list")
@click.option("--session-id", help="Only runs of this session.")
@paging
@pass_client
def list_(client: DaemonClient, session_id: str | None, page: Params) -> None:
    """List runs, the newest last."""
    client.show("GET", "runs", params={"session_id": session_id, **page})


@runs.command()
@click.argument("run_id")
@pass_client
def get(client: DaemonClient, run_id: str) -> None:
    """Show one run with its outputs."""
    client.show("GET", "runs", run_id)


@runs.command()
@click.argument("run_id")
@pass_client
def events(client: DaemonClient, run_id: str) -> None:
    """Show what happened to a run, in order."""
    client.show("GET", "runs", run_id, "events")


@runs.command("external-actions")
@click.argument("run_id")
@pass_client
def external_actions(client: DaemonClient, run_id: str) -> None:
    """Show the signed records of what a run did outside of the daemon."""
    client.show("GET", "runs", run_id, "external-actions")


@runs.command()
@click.argument("run_id")
@cursor_option
@pass_client
def stream(client: DaemonClient, run_id: str, cursor: int | None) -> None:
    """Watch a run until it is over: as text on a terminal, else one JSON event per line."""
    follow_run(client, run_id, cursor=cursor)


@runs.command()
@click.argument("run_id")
@wait_options(always=True)
@pass_client
def wait(client: DaemonClient, run_id: str, wait: Wait) -> None:
    """Wait until a run is over or needs a human, and print it."""
    finish(client, {"run_id": run_id}, wait)


@runs.command()
@click.argument("run_id")
@pass_client
def cancel(client: DaemonClient, run_id: str) -> None:
    """Stop a run; one that is over stays as it is."""
    client.show("POST", "runs", run_id, "cancel")


@runs.command()
@click.option("--older-than-ms", type=int, required=True, metavar="MS", help="Since the run ended.")
@click.option("--session-id", help="Only runs of this session.")
@click.option("--limit", type=int, metavar="N", help="At most this many runs.  [default: 100]")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@pass_client
def prune(client: DaemonClient, older_than_ms: int, session_id: str | None, limit: int | None, dry_run: bool) -> None:
    """Delete debug evidence of runs that ended long ago; the runs themselves stay."""
    given: dict[str, JsonValue] = {"older_than_ms": older_than_ms, "session_id": session_id, "limit": limit}
    body: JsonObject = {name: value for name, value in given.items() if value is not None}
    client.show("POST", "runs", "prune", body={**body, "dry_run": dry_run})
