"""What takes several exchanges: repeating, creating, waiting. Written once as generators; each client drives them.

A flow yields calls, which come back as their results or are thrown back as errors, and pauses.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar

from kheish.sdk import requests
from kheish.sdk import types as t
from kheish.sdk.connection import Connection
from kheish.sdk.decoding import as_json
from kheish.sdk.errors import (
    ConnectionFailed,
    InvalidArgument,
    KheishError,
    NotFound,
    RateLimited,
    ServerError,
    WaitTimeout,
)
from kheish.sdk.jsonvalue import JsonValue
from kheish.sdk.requests import Input
from kheish.sdk.results import is_over, is_waiting
from kheish.sdk.values import ReplyTarget, Route
from kheish.sdk.wire import Call

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Pause:
    """Do nothing for this long."""

    seconds: float


Step: TypeAlias = "Call[Any] | Pause"
Flow: TypeAlias = Generator[Step, Any, T]

FIRST_RETRY_SECONDS = 0.2
MAX_RETRY_SECONDS = 5.0
MAX_RETRY_AFTER_SECONDS = 60.0
"""A daemon that asks for more patience than this gets its error raised instead."""
FIRST_POLL_SECONDS = 0.25
MAX_POLL_SECONDS = 2.0
INLINE_TIMEOUT_SECONDS = 600.0
"""Inline input answers when the run is done."""
_POLL_GROWTH = 1.5
_MIN_EXCHANGE_SECONDS = 0.05


def new_key() -> str:
    """An idempotency key nobody has used."""
    return uuid.uuid4().hex


def chosen_key(key: str | None) -> str:
    """The caller's key, or a new one.

    Raises:
        InvalidArgument: a header cannot carry it.
    """
    if key is None:
        return new_key()
    if not key.strip() or not key.isascii() or not key.isprintable():
        raise InvalidArgument("an idempotency key is printable ASCII and not blank")
    return key.strip()


def once(call: Call[T]) -> Flow[T]:
    """The result of one exchange."""
    result: T = yield call
    return result


def repeated(call: Call[T], connection: Connection) -> Flow[T]:
    """The result of a call that is repeated where that cannot do its work twice.

    Refusals for being too many are always repeated: nothing was done. Lost connections and failures of the daemon are
    repeated for calls that carry an idempotency key or change nothing.
    """
    delay = FIRST_RETRY_SECONDS
    for attempt in range(connection.max_retries + 1):
        try:
            return (yield from once(call))
        except (ConnectionFailed, ServerError, RateLimited) as error:
            waited = _wait_before_retry(error, call, delay)
            if waited is None or attempt == connection.max_retries:
                raise
        yield Pause(waited)
        delay = min(delay * 2, MAX_RETRY_SECONDS)
    raise AssertionError("the last attempt returns or raises")


def patient(call: Call[T], connection: Connection) -> Flow[T]:
    """The result of a call that only reads, asked for as long as a wait bears a daemon that does not answer."""
    started = time.monotonic()
    delay = FIRST_RETRY_SECONDS
    while True:
        try:
            return (yield from once(call))
        except (ConnectionFailed, ServerError, RateLimited):
            if time.monotonic() - started > connection.grace_seconds:
                raise
        yield Pause(delay)
        delay = min(delay * 2, MAX_POLL_SECONDS)


def _wait_before_retry(error: KheishError, call: Call[T], delay: float) -> float | None:
    # Clients that failed together should not come back together.
    jittered = delay * random.uniform(0.5, 1.0)  # noqa: S311  # no secret
    if isinstance(error, RateLimited):
        asked = error.retry_after if error.retry_after is not None else jittered
        return asked if asked <= MAX_RETRY_AFTER_SECONDS else None
    return jittered if call.repeatable else None


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
            pause = _wait_before_retry(error, call, delay)
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


def raw_call(
    method: str,
    path: str,
    params: Mapping[str, JsonValue] | None,
    body: JsonValue,
    key: str | None,
    timeout: float | None,
) -> Call[JsonValue]:
    """Any request; only those that cannot act twice are repeated."""
    if not path.startswith("/"):
        raise InvalidArgument("a path starts with /")
    method = method.upper()
    return Call(
        method=method,
        path=path,
        read=as_json,
        params={name: _param(value) for name, value in (params or {}).items() if value is not None},
        body=body,
        idempotency_key=None if key is None else chosen_key(key),
        repeatable=method in ("GET", "HEAD") or key is not None,
        timeout_seconds=timeout,
    )


def _param(value: JsonValue) -> str:
    if isinstance(value, list | dict):
        raise InvalidArgument("a query parameter is a text, a number or true or false")
    return str(value).lower() if isinstance(value, bool) else str(value)
