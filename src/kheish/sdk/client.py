"""The synchronous client."""

from __future__ import annotations

from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Self

from kheish.sdk import connection as c
from kheish.sdk.raw import Raw
from kheish.sdk.transport import Transport

if TYPE_CHECKING:
    from kheish.sdk.handles import Responses
    from kheish.sdk.resources import Approvals, Events, Questions, Runs, Runtime, Sessions


class Kheish:
    """A connection to a daemon. Everything durable is in the daemon; the client can be thrown away at any time.

    ``timeout`` (seconds) bounds each exchange, not the waiting for a run. A failed request is repeated up to
    ``max_retries`` times where that cannot do its work twice. Waits and streams bear a daemon that is away for
    ``grace`` seconds.

    Raises:
        InvalidArgument: the URL or the token cannot be used.
    """

    def __init__(
        self,
        base_url: str | None = None,
        token: str | None = None,
        *,
        timeout: float = c.DEFAULT_TIMEOUT_SECONDS,
        max_retries: int = c.DEFAULT_MAX_RETRIES,
        grace: float = c.DEFAULT_GRACE_SECONDS,
    ) -> None:
        self._transport = Transport(c.connection(base_url, token, timeout, max_retries, grace))
        self.raw = Raw(self._transport)

    # Each is imported when it is first used: a program that makes one request waits for none of them.

    @cached_property
    def responses(self) -> Responses:
        from kheish.sdk.handles import Responses

        return Responses(self._transport)

    @cached_property
    def sessions(self) -> Sessions:
        from kheish.sdk.resources import Sessions

        return Sessions(self._transport)

    @cached_property
    def runs(self) -> Runs:
        from kheish.sdk.resources import Runs

        return Runs(self._transport)

    @cached_property
    def approvals(self) -> Approvals:
        from kheish.sdk.resources import Approvals

        return Approvals(self._transport)

    @cached_property
    def questions(self) -> Questions:
        from kheish.sdk.resources import Questions

        return Questions(self._transport)

    @cached_property
    def runtime(self) -> Runtime:
        from kheish.sdk.resources import Runtime

        return Runtime(self._transport)

    @cached_property
    def events(self) -> Events:
        from kheish.sdk.resources import Events

        return Events(self._transport)

    @classmethod
    def from_env(cls, *, timeout: float = c.DEFAULT_TIMEOUT_SECONDS) -> Self:
        """A client for KHEISH_BASE_URL and KHEISH_TOKEN, else KHEISH_DAEMON_URL and KHEISH_DAEMON_TOKEN."""
        base_url, token = c.environment()
        return cls(base_url, token, timeout=timeout)

    @property
    def base_url(self) -> str:
        return self._transport.connection.base_url

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_url!r})"
