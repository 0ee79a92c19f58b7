"""The questions `doctor` asks over HTTP; every failure becomes a fact."""

from __future__ import annotations

from collections.abc import Iterator

import httpx2

from kheish.core.jsonvalue import JsonObject, decode_object
from kheish.daemon.doctor import Facts
from kheish.sdk.connection import connection

_PROBE_S = 3.0
_FIRST_EVENT_S = 12.0
"""A silent stream has a heartbeat every ten seconds."""


def ask(base_url: str, token: str | None, *, origin: str | None = None) -> Facts:
    """Ask everything, whatever fails on the way.

    Raises:
        InvalidArgument: the URL or the token cannot be used at all.
    """
    target = connection(base_url, token)
    # A proxy of the environment is for other machines.
    with httpx2.Client(base_url=target.base_url, headers=target.headers(), timeout=_PROBE_S, trust_env=False) as client:
        status, status_error = _status(client)
        return Facts(
            status=status,
            status_error=status_error,
            ready_error=_ready_error(client),
            events_error=_events_error(client),
            origin=origin,
            origin_allowed=origin is not None and _allows(client, origin),
        )


def _status(client: httpx2.Client) -> tuple[JsonObject | None, str | None]:
    try:
        response = client.get("/v1/status")
        if response.status_code != httpx2.codes.OK:
            return None, _refusal(response)
        return decode_object(response.content), None
    except httpx2.HTTPError as error:
        return None, _failure(error)
    except ValueError:
        return None, "the answer is not what a daemon says; something else listens there"


def _ready_error(client: httpx2.Client) -> str | None:
    try:
        response = client.get("/readyz")
    except httpx2.HTTPError as error:
        return _failure(error)
    return None if response.status_code == httpx2.codes.OK else _refusal(response)


def _events_error(client: httpx2.Client) -> str | None:
    try:
        timeout = httpx2.Timeout(_PROBE_S, read=_FIRST_EVENT_S)
        with client.stream("GET", "/v1/events/stream", params={"cursor": "0"}, timeout=timeout) as response:
            if response.status_code != httpx2.codes.OK:
                response.read()
                return _refusal(response)
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                return "the answer is no event stream; something between here and the daemon changes it"
            return None if _first_frame(response.iter_lines()) else "it ended without an event that can be read"
    except httpx2.HTTPError as error:
        return _failure(error)


def _first_frame(lines: Iterator[str]) -> bool:
    """Whether an event arrives whole; a heartbeat is one."""
    named = False
    for line in lines:
        if line.startswith("event:"):
            named = True
        elif named and line.startswith("data:"):
            try:
                decode_object(line.removeprefix("data:").encode())
            except ValueError:
                return False
            return True
    return False


def _allows(client: httpx2.Client, origin: str) -> bool:
    try:
        response = client.options(
            "/v1/status",
            headers={
                "origin": origin,
                "access-control-request-method": "POST",
                "access-control-request-headers": "Authorization, Content-Type",
            },
        )
    except httpx2.HTTPError:
        return False
    allowed = {
        name: _words(response.headers.get(f"access-control-allow-{name}", "")) for name in ("methods", "headers")
    }
    fits = "post" in allowed["methods"] and {"authorization", "content-type"} <= allowed["headers"]
    return fits and response.headers.get("access-control-allow-origin") == origin


def _words(header: str) -> set[str]:
    return {word.strip().lower() for word in header.split(",")}


def _refusal(response: httpx2.Response) -> str:
    try:
        problem = decode_object(response.content)
    except ValueError:
        return f"HTTP {response.status_code}"
    return f"HTTP {response.status_code} ({problem.get('code')}): {problem.get('detail')}"


def _failure(error: httpx2.HTTPError) -> str:
    return "no answer in time" if isinstance(error, httpx2.TimeoutException) else "cannot be reached"
