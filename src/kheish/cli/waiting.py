"""Waiting for a run: until it is over, or needs a human."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable

import click

from kheish.cli.daemon_client import DaemonClient, as_object
from kheish.cli.failures import ExitCode, Failure, Unreachable
from kheish.cli.options import F, bundled
from kheish.cli.output import JsonObject
from kheish.core.values import value_class

DEFAULT_POLL_MS = 500
MIN_POLL_MS = 50
DEFAULT_GRACE_MS = 15_000
"""A restart of the daemon takes less."""
GRACE_VARIABLE = "KHEISH_DAEMON_WAIT_TRANSIENT_ERROR_GRACE_MS"

WAITING = frozenset({"waiting_for_approval", "waiting_for_user_question"})
NOT_COMPLETED = frozenset({"failed", "interrupted", "cancelled"})
OVER = NOT_COMPLETED | {"completed"}


@value_class(frozen=True, kw_only=True, slots=True)
class Wait:
    """How a command waits; `enabled` says whether it does."""

    enabled: bool
    poll_interval_ms: int
    timeout_seconds: float | None = None

    @property
    def poll_seconds(self) -> float:
        return max(self.poll_interval_ms, MIN_POLL_MS) / 1000


class WaitTimedOut(Failure):
    """`--wait-timeout` ran out; `run` is the run as last seen."""

    def __init__(self, run_id: str, seconds: float, run: JsonObject | None) -> None:
        super().__init__(f"{run_id} was not over after {seconds:g} s; it goes on", ExitCode.TIMEOUT)
        self.run = run


def wait_options(*, always: bool = False, poll_interval_ms: int = DEFAULT_POLL_MS) -> Callable[[F], F]:
    """`--wait --poll-interval-ms --wait-timeout` as the argument `wait`; ``always`` leaves `--wait` out."""
    asked = {"wait_": click.option("--wait", "wait_", is_flag=True, help="Until the run is over or needs a human.")}
    timing = {
        "poll_interval_ms": click.option(
            "--poll-interval-ms",
            type=click.IntRange(min=0),
            default=poll_interval_ms,
            show_default=True,
            metavar="MS",
            help=f"Time between looks, at least {MIN_POLL_MS}.",
        ),
        "wait_timeout": click.option(
            "--wait-timeout",
            type=click.FloatRange(min=0),
            metavar="SECONDS",
            help="Give up waiting after this time (exit code 7); the run goes on.",
        ),
    }

    def build(*, poll_interval_ms: int, wait_timeout: float | None, wait_: bool = True) -> Wait:
        return Wait(enabled=wait_, poll_interval_ms=poll_interval_ms, timeout_seconds=wait_timeout)

    return bundled("wait", build, timing if always else {**asked, **timing})


def wait_for_run(client: DaemonClient, run_id: str, wait: Wait) -> JsonObject:
    """Poll until the run is over or waits for a human, and return it.

    Raises:
        WaitTimedOut: the time is up.
        Unreachable: the daemon gave no answer for longer than a restart takes.
        HttpFailure: it answered with an error, which waiting does not cure.
    """
    grace = _grace_seconds()
    deadline = None if wait.timeout_seconds is None else time.monotonic() + wait.timeout_seconds
    failing_since: float | None = None
    run: JsonObject | None = None
    while True:
        try:
            run = as_object(client.call("GET", "runs", run_id))
            failing_since = None
        except Unreachable:
            now = time.monotonic()
            failing_since = now if failing_since is None else failing_since
            if now - failing_since >= grace:
                raise
        else:
            if run.get("status") in OVER | WAITING:
                return run
        left = wait.poll_seconds if deadline is None else deadline - time.monotonic()
        if left <= 0 and deadline is not None:
            raise WaitTimedOut(run_id, wait.timeout_seconds or 0, run)
        time.sleep(min(wait.poll_seconds, left))


def finish(client: DaemonClient, run: JsonObject, wait: Wait) -> None:
    """Print ``run``; when asked to wait, wait first and end with the exit code that tells how it went."""
    if not wait.enabled:
        client.print(run)
        return
    try:
        run = wait_for_run(client, str(run["run_id"]), wait)
    except WaitTimedOut as timeout:
        client.print(timeout.run if timeout.run is not None else run)
        raise
    client.print(run)
    leave_with([run])


def leave_with(runs: Iterable[JsonObject]) -> None:
    """End with the exit code of the worst outcome; return when all completed."""
    statuses = {run.get("status") for run in runs}
    if statuses & NOT_COMPLETED:
        raise click.exceptions.Exit(ExitCode.RUN_NOT_COMPLETED)
    if statuses & WAITING:
        raise click.exceptions.Exit(ExitCode.WAITS_FOR_HUMAN)


def _grace_seconds() -> float:
    text = os.environ.get(GRACE_VARIABLE, "").strip()
    if not text:
        return DEFAULT_GRACE_MS / 1000
    if not (text.isascii() and text.isdecimal()):
        raise Failure(f"{GRACE_VARIABLE} must be a whole number of milliseconds")
    return int(text) / 1000
