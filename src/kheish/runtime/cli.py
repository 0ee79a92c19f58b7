"""Commands of the daemon-wide settings."""

from __future__ import annotations

import click

from kheish.cli.daemon_client import DaemonClient, pass_client
from kheish.cli.failures import Failure
from kheish.cli.generation import route_ids, split_selector
from kheish.cli.options import expected_revision, parse_json, parse_object, read_stdin, read_text
from kheish.cli.output import JsonObject
from kheish.cli.root import CommandEntry, CommandGroup

PERMISSION_MODES = {
    "default": "default",
    "accept-edits": "acceptEdits",
    "bypass-permissions": "bypassPermissions",
    "plan": "plan",
    "dont-ask": "dontAsk",
}
"""Words of the command line, and of the wire."""


@click.group(cls=CommandGroup)
def runtime() -> None:
    """Read and change daemon-wide settings."""


runtime.add_entries(
    (
        CommandEntry(
            name="auth", target="kheish.broker.cli:auth", help="See who borrowed which credential, and take it back."
        ),
    )
)


def _change(revision: int | None, **fields: object) -> JsonObject:
    body: dict[str, object] = {**fields, "expected_revision": revision}
    return {name: value for name, value in body.items() if value is not None}  # type: ignore[misc] # JSON all through


@runtime.command()
@pass_client
def get(client: DaemonClient) -> None:
    """Show the settings in force."""
    client.show("GET", "runtime")


@runtime.command()
@pass_client
def revisions(client: DaemonClient) -> None:
    """List every kept revision of the settings, newest first."""
    client.show("GET", "runtime", "revisions")


@runtime.command("set-model")
@click.argument("selector", metavar="[ROUTE/]MODEL")
@expected_revision
@pass_client
def set_model(client: DaemonClient, selector: str, expected_revision: int | None) -> None:
    """Choose the default route and model of later runs."""
    routes = route_ids(client) if "/" in selector else frozenset()
    route, model = split_selector(selector, routes)
    client.show("POST", "runtime", "model", body=_change(expected_revision, provider=route, model=model))


@runtime.command("set-route")
@click.argument("route_id")
@click.option("--file", "path", metavar="PATH", help="JSON file with the keys of a [routes.<id>] table.")
@click.option("--json", "text", metavar="JSON", help="The same as an argument.")
@click.option("--default", "make_default", is_flag=True, help="Make it the default route.")
@expected_revision
@pass_client
def set_route(
    client: DaemonClient,
    route_id: str,
    path: str | None,
    text: str | None,
    make_default: bool,
    expected_revision: int | None,
) -> None:
    """Add or replace a route without a restart; its key is a secret that it names in auth_ref."""
    if (path is None) == (text is None):
        raise click.UsageError("give exactly one of --file and --json")
    origin = "--json" if path is None else path
    route = parse_object(parse_json(text or "" if path is None else read_text(path), origin), origin)
    body = _change(expected_revision, route_id=route_id, route=route, make_default=make_default)
    client.show("POST", "runtime", "routes", body=body)


@runtime.command("remove-route")
@click.argument("route_id")
@pass_client
def remove_route(client: DaemonClient, route_id: str) -> None:
    """Remove a route that was added."""
    client.show("DELETE", "runtime", "routes", route_id)


@runtime.command("set-permission-mode")
@click.argument("mode", type=click.Choice(list(PERMISSION_MODES)))
@expected_revision
@pass_client
def set_permission_mode(client: DaemonClient, mode: str, expected_revision: int | None) -> None:
    """Change how later tool calls are decided."""
    client.show("POST", "runtime", "permission-mode", body=_change(expected_revision, mode=PERMISSION_MODES[mode]))


@runtime.group(cls=CommandGroup)
def permissions() -> None:
    """Explain permission decisions; changes nothing."""


@permissions.command()
@click.argument("tool")
@click.option("--input-json", default="{}", show_default=True, metavar="JSON", help="The call's input.")
@click.option("--session-id", help="As this session would decide.")
@click.option("--tool-call-id")
@click.option("--mode", type=click.Choice(list(PERMISSION_MODES)), help="As in this mode.")
@pass_client
def check(
    client: DaemonClient, tool: str, input_json: str, session_id: str | None, tool_call_id: str | None, mode: str | None
) -> None:
    """Explain what would be decided about a tool call."""
    body: JsonObject = {
        "tool_name": tool,
        "input": parse_object(parse_json(input_json, "--input-json"), "--input-json"),
        "session_id": session_id,
        "tool_call_id": tool_call_id,
        "mode_override": None if mode is None else PERMISSION_MODES[mode],
    }
    given: JsonObject = {name: value for name, value in body.items() if value is not None}
    client.show("POST", "runtime", "permissions", "check", body=given)


@permissions.command()
@click.option("--session-id", help="As this session would decide.")
@pass_client
def matrix(client: DaemonClient, session_id: str | None) -> None:
    """Show every tool in every permission mode."""
    body: JsonObject = {} if session_id is None else {"session_id": session_id}
    client.show("POST", "runtime", "permissions", "matrix", body=body)


@runtime.group("tool-limits", cls=CommandGroup)
def tool_limits() -> None:
    """Limits of tool batches."""


@tool_limits.command("get")
@pass_client
def get_limits(client: DaemonClient) -> None:
    """Show the limits."""
    client.show("GET", "runtime", "tool-limits")


@tool_limits.command("set")
@click.option("--file", "path", metavar="PATH", type=click.Path(), help="JSON file with every limit.")
@click.option("--stdin", is_flag=True, help="Read the JSON from standard input.")
@expected_revision
@pass_client
def set_limits(client: DaemonClient, path: str | None, stdin: bool, expected_revision: int | None) -> None:
    """Replace the limits of later tool batches; takes what `get` prints, changed."""
    if (path is None) != stdin:
        raise click.UsageError("give exactly one of --file and --stdin")
    origin = "standard input" if path is None else path
    given = parse_object(parse_json(read_stdin() if path is None else read_text(path), origin), origin)
    limits = given.get("limits", given)
    if not isinstance(limits, dict):
        raise Failure(f"`limits` in {origin} must be a JSON object")
    client.show("POST", "runtime", "tool-limits", body=_change(expected_revision, limits=limits))
