"""Commands of sessions."""

from __future__ import annotations

import click

from kheish.cli.daemon_client import DaemonClient, Params, as_object, pass_client
from kheish.cli.failures import Failure
from kheish.cli.generation import GenerationFlags, generation_options, route_generation
from kheish.cli.options import json_pair, paging, text_source
from kheish.cli.output import JsonObject, JsonValue
from kheish.cli.root import CommandEntry, CommandGroup
from kheish.cli.streams import cursor_option, print_events
from kheish.cli.waiting import Wait, finish, wait_options


@click.group(cls=CommandGroup)
def sessions() -> None:
    """Open sessions, give them input, look at them."""


sessions.aliases.update({"open": "create", "show": "get", "send": "input", "watch": "stream", "follow": "stream"})
sessions.add_entries(
    [
        CommandEntry(name="approve", target="kheish.approvals.cli:allow", help="Let one tool call run."),
        CommandEntry(name="deny", target="kheish.approvals.cli:deny", help="Refuse one tool call."),
        CommandEntry(name="vacuum", target="kheish.state.cli:vacuum_session", help="Give free space back, offline."),
    ]
)


@sessions.command("list")
@paging
@pass_client
def list_(client: DaemonClient, page: Params) -> None:
    """List sessions by id."""
    client.show("GET", "sessions", params=page)


@sessions.command()
@click.argument("session_id", required=False)
@click.option("--thread-id", help="An id of your own, kept with the session.")
@pass_client
def create(client: DaemonClient, session_id: str | None, thread_id: str | None) -> None:
    """Open a session; an id that exists gives that session."""
    fields = {"session_id": session_id, "thread_id": thread_id}
    body: JsonObject = {name: value for name, value in fields.items() if value is not None}
    client.show("POST", "sessions", body=body)


@sessions.command()
@click.argument("session_id")
@pass_client
def get(client: DaemonClient, session_id: str) -> None:
    """Show one session with its newest outputs."""
    client.show("GET", "sessions", session_id)


@sessions.command("input")
@click.argument("session_id")
@text_source()
@click.option("--source-plugin", help="Where the input comes from.")
@click.option("--source-kind")
@click.option("--actor-id", help="Who sends it.")
@click.option("--idempotency-key", metavar="KEY", help="Same key, same input: one run.")
@json_pair("metadata", "Kept with the input.")
@click.option(
    "--on-restart", type=click.Choice(["resume", "interrupt"]), help="Instead of the daemon's --restart-policy."
)
@click.option(
    "--on-in-doubt",
    type=click.Choice(["report", "ask"]),
    help="A call that may have run when the daemon died: tell the model (default), or ask a human.",
)
@click.option("--reply-plugin", help="With --reply-address: where answers go.")
@click.option("--reply-address")
@click.option("--provider", metavar="ROUTE", help="Route of this run.")
@click.option(
    "--require-workspace-file-write", "any_file", is_flag=True, help="The run must write some workspace file."
)
@click.option(
    "--require-workspace-file-path",
    "files",
    multiple=True,
    metavar="PATH",
    type=click.Path(),
    help="The run must write this file.",
)
@generation_options
@wait_options()
@pass_client
def input_(
    client: DaemonClient,
    /,
    session_id: str,
    content: str,
    idempotency_key: str | None,
    metadata: JsonValue,
    reply_plugin: str | None,
    reply_address: str | None,
    provider: str | None,
    any_file: bool,
    files: tuple[str, ...],
    generation: GenerationFlags,
    response_schema: JsonValue,
    wait: Wait,
    **source: str | None,
) -> None:
    """Queue a run with this text and print it; with --wait, print it when it is over or needs a human."""
    if (reply_plugin is None) != (reply_address is None):
        raise click.UsageError("--reply-plugin and --reply-address need each other")
    routed = route_generation(client, generation, provider=provider, schema=response_schema)
    if idempotency_key is not None:
        _check_idempotency(client)
    body: JsonObject = {"content": content, **routed.fields()}
    body.update((name, value) for name, value in source.items() if value is not None)
    if metadata is not None:
        body["metadata"] = metadata
    if reply_plugin is not None:
        body["reply_targets"] = [{"plugin": reply_plugin, "address": reply_address}]
    if any_file or files:
        body["completion_requirements"] = _requirements(any_file, files)
    run = client.call_object("POST", "sessions", session_id, "runs", body=body, key=idempotency_key)
    finish(client, run, wait)


def _check_idempotency(client: DaemonClient) -> None:
    if as_object(client.call("GET", "capabilities")).get("session_run_idempotency") is not True:
        raise Failure("this daemon does not know idempotency keys; nothing was sent")


def _requirements(any_file: bool, files: tuple[str, ...]) -> list[JsonValue]:
    found: list[JsonValue] = [{"type": "workspace_file", "path": path} for path in files]
    if any_file:
        found.append({"type": "workspace_file"})
    return found


@sessions.command()
@click.argument("session_id")
@pass_client
def chat(client: DaemonClient, session_id: str) -> None:
    """Talk to a session: Ctrl-C interrupts the run, Ctrl-D leaves."""
    from kheish.cli.chat import chat_with

    chat_with(client, session_id)


@sessions.command()
@click.argument("session_id")
@pass_client
def events(client: DaemonClient, session_id: str) -> None:
    """Show the session's journal, outputs and run events."""
    client.show("GET", "sessions", session_id, "events")


@sessions.command()
@click.argument("session_id")
@cursor_option
@pass_client
def stream(client: DaemonClient, session_id: str, cursor: int | None) -> None:
    """Print the session's events, one JSON object per line, as they come."""
    print_events(client, session_id=session_id, cursor=cursor)


@sessions.command("set-route")
@click.argument("session_id")
@click.option("--provider", metavar="ROUTE", help="Route of later runs.")
@click.option("--clear", is_flag=True, help="Back to the daemon's default.")
@generation_options
@pass_client
def set_route(
    client: DaemonClient,
    session_id: str,
    provider: str | None,
    clear: bool,
    generation: GenerationFlags,
    response_schema: JsonValue,
) -> None:
    """Choose route, model and generation of the session's later runs."""
    routed = route_generation(client, generation, provider=provider, schema=response_schema)
    fields = routed.fields()
    if clear == bool(fields):
        raise click.UsageError("give either --clear or what later runs shall use")
    body: JsonObject = {"route_policy": None if clear else fields}
    client.show("POST", "sessions", session_id, "route-policy", body=body)


@sessions.command("set-reply-targets")
@click.argument("session_id")
@json_pair("reply_targets", "List of reply targets.")
@pass_client
def set_reply_targets(client: DaemonClient, session_id: str, reply_targets: JsonValue) -> None:
    """Choose where the answers of later runs go by default."""
    if reply_targets is None:
        raise click.UsageError("give --reply-targets-json or --reply-targets-file")
    client.show("POST", "sessions", session_id, "reply-targets", body={"reply_targets": reply_targets})


@sessions.command("clear-reply-targets")
@click.argument("session_id")
@pass_client
def clear_reply_targets(client: DaemonClient, session_id: str) -> None:
    """Deliver the answers of later runs to nobody by default."""
    client.show("DELETE", "sessions", session_id, "reply-targets")


@sessions.command()
@click.argument("session_id")
@pass_client
def interrupt(client: DaemonClient, session_id: str) -> None:
    """Stop the active run."""
    client.show("POST", "sessions", session_id, "interrupt")


@sessions.command()
@click.argument("session_id")
@click.option("--reason", metavar="TEXT", help="Kept in the session's journal.")
@pass_client
def end(client: DaemonClient, session_id: str, reason: str | None) -> None:
    """Interrupt the active run and cancel the queued ones; the session stays usable."""
    client.show("POST", "sessions", session_id, "end", body={} if reason is None else {"reason": reason})
