"""Ids in paths: anything, percent-encoded, `/` included. Routing follows the raw path."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

from starlette.types import ASGIApp, Receive, Scope, Send

from kheish.core.problems import BadRequest
from kheish.http.problems import render


def segment_id(segment: str) -> str:
    """One path segment, as `RawPaths` prepared it, back to the caller's id."""
    return segment.replace("%2F", "/").replace("%25", "%") if "%" in segment else segment


class RawPaths:
    """Splits the path at real slashes only: `x%2Fevents` is one segment with the id `x/events`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw: bytes = scope.get("raw_path") or b""
        if b"%" in raw:
            try:
                scope = {**scope, "path": _prepared(raw)}
            except UnicodeDecodeError:
                await render(BadRequest("The path is not valid UTF-8."))(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _prepared(raw: bytes) -> str:
    segments = (unquote_to_bytes(segment).decode() for segment in raw.split(b"/"))
    return "/".join(segment.replace("%", "%25").replace("/", "%2F") for segment in segments)
