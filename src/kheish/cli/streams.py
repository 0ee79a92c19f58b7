"""Event streams as lines of JSON, and a run followed to its end."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from kheish.cli.daemon_client import DaemonClient, as_object, translated
from kheish.cli.failures import ExitCode, Failure
from kheish.cli.options import F
from kheish.cli.output import JsonObject, write_line
from kheish.cli.waiting import OVER

if TYPE_CHECKING:
    from kheish.sdk.sse import Event


def cursor_option(function: F) -> F:
    """`--cursor`: where to begin, or to go on."""
    return click.option(
        "--cursor", type=click.IntRange(min=0), metavar="ID", help="Begin after this event id; 0: all that is kept."
    )(function)


def print_events(
    client: DaemonClient, *, session_id: str | None = None, run_id: str | None = None, cursor: int | None = None
) -> None:
    """Print events as they come, one JSON object per line, until the user leaves."""
    # Asking for the position first also tells at once when nothing answers there.
    start = tail_cursor(client) if cursor is None else cursor
    with translated():
        if session_id is not None and run_id is None:
            print_lines(client.sdk.sessions.stream(session_id, cursor=start))
        else:
            print_lines(client.sdk.events.stream(session_id=session_id, run_id=run_id, cursor=start))


def print_lines(events: Iterable[Event]) -> None:
    """One line per event: its id (null when it can not be replayed), its type and its data."""
    for event in events:
        line: JsonObject = {"id": event.id, "event": event.type, "data": event.data}
        write_line(json.dumps(line, ensure_ascii=False, separators=(",", ":")))


def follow_run(client: DaemonClient, run_id: str, *, cursor: int | None) -> None:
    """Follow a run until it is over: as text on a terminal, else as lines of JSON."""
    # The position before the run is looked at: a live run ends behind it.
    tail = tail_cursor(client)
    run = client.call_object("GET", "runs", run_id)
    over = run.get("status") in OVER
    start = cursor if cursor is not None else 0 if over or sys.stdout.isatty() else tail
    with translated():
        events = client.sdk.runs.stream(run_id, cursor=start)
        if sys.stdout.isatty():
            _show(client, run, events)
        else:
            print_lines(events)


def _show(client: DaemonClient, run: JsonObject, events: Iterable[Event]) -> None:
    from kheish.cli.terminal import Screen

    screen = Screen()
    if run.get("status") == "queued":
        screen.note(f"queued, position {run.get('queued_position')}")
    for event in events:
        screen.show(event)
    screen.close(client.call_object("GET", "runs", str(run["run_id"])))


def tail_cursor(client: DaemonClient) -> int:
    """The id of the newest event there is."""
    events = as_object(client.call_object("GET", "status").get("events"))
    tail = events.get("tail_event_id_cursor")
    if not isinstance(tail, str) or not (tail.isascii() and tail.isdecimal()):
        raise Failure("the daemon's status names no event cursor", ExitCode.UNREADABLE)
    return int(tail)


def updated_run(event: Event) -> JsonObject | None:
    """The run a `run_updated` event carries."""
    run = event.data.get("run")
    return run if event.type == "run_updated" and isinstance(run, dict) else None
