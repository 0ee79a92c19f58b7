"""Request bodies: bounded, JSON only, read once."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kheish.core.jsonvalue import JsonValue, decode
from kheish.core.problems import BadRequest
from kheish.http.headers import first_headers
from kheish.http.problems import PayloadTooLarge, UnsupportedMediaType, render

MAX_NESTING = 128
"""What is accepted must fit into a journal entry, and the encoder stops at 254 levels."""
DEFAULT_MAX_BYTES = 32 * 1024 * 1024
_MUTATIONS = frozenset({"POST", "PUT", "PATCH", "DELETE"})


def parsed(body: bytes) -> JsonValue:
    """The value of a body that is strict JSON: no NaN, no lone surrogates, no invalid UTF-8.

    Raises:
        BadRequest: it is not, or it is nested too deep.
    """
    try:
        value = decode(body)
    except ValueError as error:
        raise BadRequest("The request body is not valid JSON.") from error
    if body.count(b"[") + body.count(b"{") > MAX_NESTING and _is_deeper(value, MAX_NESTING):
        raise BadRequest(f"The request body is nested deeper than {MAX_NESTING} levels.")
    return value


def _is_deeper(value: JsonValue, levels: int) -> bool:
    row = [value]
    for _ in range(levels):
        row = [
            child
            for item in row
            if isinstance(item, (dict, list))
            for child in (item.values() if isinstance(item, dict) else item)
        ]
    return any(isinstance(item, (dict, list)) for item in row)


class _Gone(Exception):
    """The client left before its request was whole."""


class Bodies:
    """Reads the body of a mutation up to a limit, chunked or not, and insists on `application/json`.

    The content type is what keeps a web page of another origin from sending a plain form to a daemon without
    tokens. A missing body needs none, unless a browser sent the request.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in _MUTATIONS:
            await self._app(scope, receive, send)
            return
        headers = first_headers(scope)
        try:
            body = await self._read(headers, receive)
        except _Gone:
            # Half a request is none: acting on it could cancel what its sender never finished asking for.
            return
        if body is None:
            problem = PayloadTooLarge(f"The request body is larger than {self._max_bytes} bytes.")
            await render(problem, {"connection": "close"})(scope, receive, send)
        elif not _is_json(headers) and (body or b"origin" in headers):
            await render(UnsupportedMediaType())(scope, receive, send)
        else:
            await self._app(scope, _replay(body, receive), send)

    async def _read(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes | None:
        declared = headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared) > self._max_bytes:
            return None
        chunks: list[bytes] = []
        total = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            chunk = message.get("body", b"")
            total += len(chunk)
            if total > self._max_bytes:
                return None
            chunks.append(chunk)
            if not message.get("more_body", False):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _is_json(headers: Mapping[bytes, bytes]) -> bool:
    return headers.get(b"content-type", b"").partition(b";")[0].strip().lower() == b"application/json"


def _replay(body: bytes, receive: Receive) -> Receive:
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return pending.pop() if pending else await receive()

    return again
