"""What takes several exchanges: creating, waiting. Written once as flows; each client drives them."""

from __future__ import annotations

import time
from dataclasses import replace

from kheish.sdk import requests
from kheish.sdk import types as t
from kheish.sdk.connection import Connection
from kheish.sdk.errors import ConnectionFailed, NotFound, RateLimited, ServerError, WaitTimeout
from kheish.sdk.repeating import MAX_POLL_SECONDS, Flow, Pause, chosen_key, once, repeated, wait_before_retry
from kheish.sdk.requests import Input
from kheish.sdk.results import is_over, is_waiting
from kheish.sdk.values import ReplyTarget, Route

FIRST_POLL_SECONDS = 0.25
INLINE_TIMEOUT_SECONDS = 600.0
"""Inline input answers when the run is done."""
_POLL_GROWTH = 1.5
_MIN_EXCHANGE_SECONDS = 0.05


def submit(connection: Connection, session_id: str, given: Input, key: str | None) -> Flow[t.RunView]:
    """Submit once, whatever the network does."""
    key = chosen_key(key)
    return (yield from repeated(requests.submit_run(session_id, given, key), connection))


def create_response(connection: Connection, session: str | None, given: Input, key: str | None) -> Flow[t.RunView]:
    """Submit; open the session first when it does not exist."""
    # One key for every attempt: the second submit must not be a second run.
    key = chosen_key(key)
    if session is None:
        opened = yield from repeated(requests.create_session(None, None, None), connection)
        return (yield from submit(connection, opened.session_id, given, key))
    try:
        return (yield from submit(connection, session, given, key))
    except NotFound as missing:
        if missing.code != "session_not_found":
            raise
    yield from repeated(requests.create_session(session, None, None), connection)
    return (yield from submit(connection, session, given, key))


def create_session(
    connection: Connection,
    session_id: str | None,
    *,
    thread_id: str | None,
    persona: str | None,
    route: Route | str | None,
    reply_targets: tuple[ReplyTarget, ...],
) -> Flow[t.SessionView]:
    """Open a session and set what runs of it use by default."""
    view = yield from repeated(requests.create_session(session_id, thread_id, persona), connection)
    if route is not None:
        view = yield from repeated(requests.set_route_policy(view.session_id, route, None), connection)
    if reply_targets:
        view = yield from repeated(requests.set_reply_targets(view.session_id, reply_targets), connection)
    return view


def wait(connection: Connection, run_id: str, timeout: float | None, *, until_blocked: bool = False) -> Flow[t.RunView]:
    """Look at the run until it is over, or also until it waits for a human.

    A daemon that does not answer is asked again until the timeout, or without one for the connection's grace.

    Raises:
        WaitTimeout: the time is over; the run goes on.
    """
    started = time.monotonic()
    deadline = None if timeout is None else started + timeout
    answered = started
    delay = FIRST_POLL_SECONDS
    call = requests.get_run(run_id)
    while True:
        try:
            run = yield from once(replace(call, timeout_seconds=_exchange_limit(connection, deadline)))
        except (ConnectionFailed, ServerError, RateLimited) as error:
            if deadline is None and time.monotonic() - answered > connection.grace_seconds:
                raise
            pause = wait_before_retry(error, call, delay)
        else:
            answered = time.monotonic()
            if is_over(run) or (until_blocked and is_waiting(run)):
                return run
            pause = delay
        left = None if deadline is None else deadline - time.monotonic()
        if timeout is not None and left is not None and left <= 0:
            raise WaitTimeout(run_id, timeout)
        pause = MAX_POLL_SECONDS if pause is None else pause
        yield Pause(pause if left is None else min(pause, left))
        delay = min(delay * _POLL_GROWTH, MAX_POLL_SECONDS)


def _exchange_limit(connection: Connection, deadline: float | None) -> float:
    if deadline is None:
        return connection.timeout_seconds
    return min(connection.timeout_seconds, max(deadline - time.monotonic(), _MIN_EXCHANGE_SECONDS))
