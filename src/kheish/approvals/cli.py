"""Commands of approvals."""

from __future__ import annotations

from collections.abc import Sequence

import click

from kheish.cli.daemon_client import DaemonClient, as_object, as_rows, pass_client
from kheish.cli.failures import Failure, HttpFailure
from kheish.cli.options import json_pair
from kheish.cli.output import JsonObject, JsonValue
from kheish.cli.pending import only_match, request_of
from kheish.cli.root import CommandGroup
from kheish.cli.waiting import Wait, WaitTimedOut, finish, leave_with, wait_for_run, wait_options

_LOOKED_AT = 100
"""Newest runs of a session among which a repeated command finds the one it resolved before."""


@click.group(cls=CommandGroup)
def approvals() -> None:
    """Tool calls that wait for a human."""


approvals.aliases.update({"approve-all": "allow-all"})

_justification = click.option("--justification", metavar="TEXT", help="Why; kept with the decision.")
_reason = click.option("--reason", metavar="TEXT", help="What the model reads.")
_key = click.option("--idempotency-key", metavar="KEY", help="Same key, same request: takes effect once.")


@approvals.command("list")
@click.option("--session-id", help="Only of this session.")
@pass_client
def list_(client: DaemonClient, session_id: str | None) -> None:
    """List every tool call that waits."""
    client.print([*_pending(client, session_id)])


@approvals.command()
@click.argument("request_id")
@click.option("--session-id", help="Needed when several sessions have a request of this id.")
@pass_client
def show(client: DaemonClient, request_id: str, session_id: str | None) -> None:
    """Show one waiting tool call."""
    client.print(only_match(_pending(client, session_id), request_id, hint="--session-id"))


@approvals.command()
@click.argument("session_id")
@click.argument("request_id")
@json_pair("updated_input", "Run the tool with this input instead of the model's.")
@_justification
@_key
@wait_options()
@pass_client
def allow(
    client: DaemonClient,
    session_id: str,
    request_id: str,
    updated_input: JsonValue,
    justification: str | None,
    idempotency_key: str | None,
    wait: Wait,
) -> None:
    """Let one tool call run."""
    resolution = _resolution(request_id, "allow", updated_input=updated_input, justification=justification)
    _resolve_one(client, session_id, resolution, idempotency_key, wait)


@approvals.command()
@click.argument("session_id")
@click.argument("request_id")
@_reason
@_justification
@_key
@wait_options()
@pass_client
def deny(
    client: DaemonClient,
    session_id: str,
    request_id: str,
    reason: str | None,
    justification: str | None,
    idempotency_key: str | None,
    wait: Wait,
) -> None:
    """Refuse one tool call; the model goes on without it."""
    resolution = _resolution(request_id, "deny", reason=reason, justification=justification)
    _resolve_one(client, session_id, resolution, idempotency_key, wait)


@approvals.command("allow-all")
@click.option("--session-id", help="Only of this session.")
@_justification
@_key
@wait_options()
@pass_client
def allow_all(
    client: DaemonClient, session_id: str | None, justification: str | None, idempotency_key: str | None, wait: Wait
) -> None:
    """Let every waiting tool call run; one atomic batch per run."""
    _resolve_all(client, session_id, "allow", {"justification": justification}, idempotency_key, wait)


@approvals.command("deny-all")
@click.option("--session-id", help="Only of this session.")
@_reason
@_justification
@_key
@wait_options()
@pass_client
def deny_all(
    client: DaemonClient,
    session_id: str | None,
    reason: str | None,
    justification: str | None,
    idempotency_key: str | None,
    wait: Wait,
) -> None:
    """Refuse every waiting tool call; one atomic batch per run."""
    texts: dict[str, JsonValue] = {"reason": reason, "justification": justification}
    _resolve_all(client, session_id, "deny", texts, idempotency_key, wait)


def _pending(client: DaemonClient, session_id: str | None) -> list[JsonObject]:
    return as_rows(client.call("GET", "approvals", params={"session_id": session_id}))


def _resolution(request_id: str, behavior: str, **given: JsonValue) -> JsonObject:
    texts = {name: value for name, value in given.items() if value is not None}
    return {"request_id": request_id, "behavior": behavior, **texts}


def _resolve_one(client: DaemonClient, session_id: str, resolution: JsonObject, key: str | None, wait: Wait) -> None:
    run_id = _owner(client, session_id, str(resolution["request_id"]))
    # Without an owner the session's endpoint says what is wrong: no session, nothing active, not pending.
    target = ("sessions", session_id, "approval-runs") if run_id is None else ("runs", run_id, "approvals")
    run = client.call_object("POST", *target, body={"resolutions": [resolution]}, key=key)
    finish(client, run, wait)


def _owner(client: DaemonClient, session_id: str, request_id: str) -> str | None:
    """The run that waits for this request, or waited for it: a repeated command must reach the same run."""
    for row in _pending(client, session_id):
        if request_of(row) == request_id:
            return str(row["run_id"])
    newest = as_rows(client.call("GET", "runs", params={"session_id": session_id, "limit": _LOOKED_AT}))
    for run in reversed(newest):
        run_id = str(run["run_id"])
        if as_object(run.get("request") or {}).get("approval_count") and request_id in _asked(client, run_id):
            return run_id
    return None


def _asked(client: DaemonClient, run_id: str) -> set[str]:
    found: set[str] = set()
    for entry in as_rows(client.call("GET", "runs", run_id, "events")):
        event = as_object(entry.get("event"))
        ids = event.get("request_ids")
        if event.get("type") == "waiting_for_approval" and isinstance(ids, list):
            found.update(str(request_id) for request_id in ids)
    return found


def _resolve_all(
    client: DaemonClient,
    session_id: str | None,
    behavior: str,
    texts: dict[str, JsonValue],
    key: str | None,
    wait: Wait,
) -> None:
    batches: dict[tuple[str, str], list[str]] = {}
    for row in _pending(client, session_id):
        batches.setdefault((str(row["session_id"]), str(row["run_id"])), []).append(request_of(row))
    runs: list[JsonObject] = []
    resolved: list[tuple[str, int]] = []
    refused: list[HttpFailure] = []
    for (owner, run_id), request_ids in batches.items():
        resolutions: list[JsonValue] = [_resolution(request_id, behavior, **texts) for request_id in request_ids]
        try:
            runs.append(
                client.call_object("POST", "runs", run_id, "approvals", body={"resolutions": resolutions}, key=key)
            )
        except HttpFailure as failure:
            # Somebody else was faster with this run; the other runs still wait for an answer.
            refused.append(HttpFailure(status=failure.status, code=failure.code, detail=f"{run_id}: {failure.detail}"))
        else:
            resolved.append((owner, len(request_ids)))
    late = _wait_for_all(client, runs, wait)
    client.print(
        {
            "resolved_requests": sum(count for _, count in resolved),
            "affected_sessions": len({owner for owner, _ in resolved}),
            "runs": [*runs],
        }
    )
    _end(runs, refused, late, wait)


def _wait_for_all(client: DaemonClient, runs: list[JsonObject], wait: Wait) -> Failure | None:
    """Replace each run by what it became; returns the first timeout."""
    late: Failure | None = None
    for index, run in enumerate(runs):
        if wait.enabled:
            try:
                runs[index] = wait_for_run(client, str(run["run_id"]), wait)
            except WaitTimedOut as timeout:
                runs[index] = timeout.run or run
                late = late or timeout
    return late


def _end(runs: Sequence[JsonObject], refused: Sequence[HttpFailure], late: Failure | None, wait: Wait) -> None:
    for failure in refused[:-1]:
        failure.show()
    if refused:
        raise refused[-1]
    if late is not None:
        raise late
    if wait.enabled:
        leave_with(runs)
