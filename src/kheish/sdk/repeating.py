"""One call and its repetitions, as flows: generators that each client drives.

A flow yields calls, which come back as their results or are thrown back as errors, and pauses.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from kheish.sdk.connection import Connection
from kheish.sdk.decoding import as_json
from kheish.sdk.errors import ConnectionFailed, InvalidArgument, KheishError, RateLimited, ServerError
from kheish.sdk.jsonvalue import JsonValue
from kheish.sdk.wire import Call

T = TypeVar("T")

FIRST_RETRY_SECONDS = 0.2
MAX_RETRY_SECONDS = 5.0
MAX_RETRY_AFTER_SECONDS = 60.0
"""A daemon that asks for more patience than this gets its error raised instead."""
MAX_POLL_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Pause:
    """Do nothing for this long."""

    seconds: float


Step: TypeAlias = "Call[Any] | Pause"
Flow: TypeAlias = Generator[Step, Any, T]


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
            waited = wait_before_retry(error, call, delay)
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


def wait_before_retry(error: KheishError, call: Call[T], delay: float) -> float | None:
    """Seconds to wait before the next attempt; None: there is none."""
    # Clients that failed together should not come back together.
    jittered = delay * random.uniform(0.5, 1.0)  # noqa: S311  # no secret
    if isinstance(error, RateLimited):
        asked = error.retry_after if error.retry_after is not None else jittered
        return asked if asked <= MAX_RETRY_AFTER_SECONDS else None
    return jittered if call.repeatable else None


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
