"""The synchronous client."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from kheish.sdk import connection as c
from kheish.sdk.handles import Responses
from kheish.sdk.resources import Approvals, Events, Questions, Raw, Runs, Runtime, Sessions
from kheish.sdk.transport import Transport


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
        self.responses = Responses(self._transport)
        self.sessions = Sessions(self._transport)
        self.runs = Runs(self._transport)
        self.approvals = Approvals(self._transport)
        self.questions = Questions(self._transport)
        self.runtime = Runtime(self._transport)
        self.events = Events(self._transport)
        self.raw = Raw(self._transport)

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
