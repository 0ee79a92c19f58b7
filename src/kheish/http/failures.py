"""The outermost wrapper: an unexpected failure is logged and answered, and tells the caller nothing."""

from __future__ import annotations

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kheish.http.problems import Internal, render

_log = structlog.get_logger("kheish.http")


class Failures:
    """One failing handler never takes the daemon down."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = whole = False

        async def watched(message: Message) -> None:
            nonlocal started, whole
            started = True
            whole = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:  # boundary: whatever a handler raises becomes a 500 here
            _log.exception("http.request_failed", method=scope["method"], path=scope["path"])
            if started and not whole:
                # The response is half sent: only closing the connection tells the client that it is not whole.
                raise
            if not started:
                await render(Internal())(scope, receive, send)
