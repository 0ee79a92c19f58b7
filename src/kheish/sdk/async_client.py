"""The asynchronous client."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from kheish.sdk import connection as c
from kheish.sdk.async_handles import Responses
from kheish.sdk.async_resources import Approvals, Events, Questions, Raw, Runs, Runtime, Sessions
from kheish.sdk.async_transport import AsyncTransport


class AsyncKheish:
    """A connection to a daemon, for asyncio. The same names as `Kheish`, awaited.

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
        self._transport = AsyncTransport(c.connection(base_url, token, timeout, max_retries, grace))
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

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_url!r})"
