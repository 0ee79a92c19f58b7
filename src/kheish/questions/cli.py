"""Commands of structured questions."""

from __future__ import annotations

import click

from kheish.cli.daemon_client import DaemonClient, Params, as_object, as_rows, pass_client
from kheish.cli.failures import Failure
from kheish.cli.options import json_pair, paging
from kheish.cli.output import JsonObject, JsonValue
from kheish.cli.pending import only_match
from kheish.cli.prompting import ask_questions
from kheish.cli.root import CommandGroup
from kheish.cli.waiting import Wait, finish, wait_options

_POLL_MS = 200
_HINT = "--session-id or --run-id"


@click.group(cls=CommandGroup)
def questions() -> None:
    """Questions that agents asked and wait for."""


_session = click.option("--session-id", help="Needed when several sessions have a request of this id.")
_run = click.option("--run-id", help="The run that asked.")
_justification = click.option("--justification", metavar="TEXT", help="Why; kept with the answer.")
_key = click.option("--idempotency-key", metavar="KEY", help="Same key, same request: takes effect once.")


@questions.command("list")
@click.option("--session-id", help="Only of this session.")
@paging
@pass_client
def list_(client: DaemonClient, session_id: str | None, page: Params) -> None:
    """List every question that waits."""
    client.show("GET", "questions", params={"session_id": session_id, **page})


@questions.command()
@click.argument("request_id")
@_session
@pass_client
def show(client: DaemonClient, request_id: str, session_id: str | None) -> None:
    """Show one waiting question."""
    client.print(_find(client, request_id, session_id, None))


@questions.command()
@click.argument("request_id")
@_session
@_run
@json_pair("answers", 'A list of answers, or {"QUESTION": ["OPTION", ...] or "text"}.')
@click.option("--interactive", is_flag=True, help="Ask me here.")
@click.option("--declined", is_flag=True, help="Refuse to answer; the run goes on knowing that.")
@_justification
@_key
@wait_options(poll_interval_ms=_POLL_MS)
@pass_client
def answer(
    client: DaemonClient,
    request_id: str,
    session_id: str | None,
    run_id: str | None,
    answers: JsonValue,
    interactive: bool,
    declined: bool,
    justification: str | None,
    idempotency_key: str | None,
    wait: Wait,
) -> None:
    """Answer a question, all parts at once."""
    if [answers is not None, interactive, declined].count(True) != 1:
        raise click.UsageError("give exactly one of --answers-json, --answers-file, --interactive and --declined")
    resolution: JsonObject = {"request_id": request_id}
    if interactive:
        row = _find(client, request_id, session_id, run_id)
        run_id = str(row["run_id"])
        resolution["answers"] = _asked_here(row)
    elif declined:
        resolution["declined"] = True
    else:
        resolution["answers"] = _answers(answers)
    if justification is not None:
        resolution["justification"] = justification
    owner = run_id or str(_find(client, request_id, session_id, run_id)["run_id"])
    run = client.call_object("POST", "runs", owner, "questions", body={"resolution": resolution}, key=idempotency_key)
    finish(client, run, wait)


@questions.command()
@click.argument("request_id")
@_session
@_run
@_justification
@_key
@pass_client
def cancel(
    client: DaemonClient,
    request_id: str,
    session_id: str | None,
    run_id: str | None,
    justification: str | None,
    idempotency_key: str | None,
) -> None:
    """End the run because nobody will answer."""
    if idempotency_key is not None and run_id is None:
        # Once cancelled the request is in no list, so a repetition could not find its run.
        raise click.UsageError("--idempotency-key needs --run-id")
    owner = run_id or str(_find(client, request_id, session_id, None)["run_id"])
    body: JsonObject = {} if justification is None else {"justification": justification}
    client.show("POST", "runs", owner, "questions", request_id, "cancel", body=body, key=idempotency_key)


def _find(client: DaemonClient, request_id: str, session_id: str | None, run_id: str | None) -> JsonObject:
    rows = as_rows(client.call("GET", "questions", params={"session_id": session_id}))
    return only_match((row for row in rows if run_id in (None, row.get("run_id"))), request_id, hint=_HINT)


def _asked_here(row: JsonObject) -> list[JsonValue]:
    try:
        return ask_questions(as_object(row["request"]))
    except EOFError:
        raise Failure("standard input ended before every question was answered") from None


def _answers(given: JsonValue) -> JsonValue:
    """The list of the wire; a mapping from question to options or text is turned into it."""
    if isinstance(given, list):
        return given
    if not isinstance(given, dict):
        raise Failure("answers must be a JSON list or object")
    found: list[JsonValue] = []
    for question_id, value in given.items():
        if not isinstance(value, (str, list)):
            raise Failure(f"the answer to {question_id!r} must be a list of option ids or a text")
        field = "freeform_answer" if isinstance(value, str) else "selected_option_ids"
        found.append({"question_id": question_id, field: value})
    return found
