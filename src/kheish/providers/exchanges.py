"""What carries a model call: our own HTTP engine, or the HTTP library behind a proxy. Time limits are the caller's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class ExchangeFailed(Exception):
    """A call failed on its way. Only ``kind`` may be shown: the text can hold headers and addresses."""

    def __init__(self, kind: str, words: str = "") -> None:
        super().__init__(words)
        self.kind = kind
        """The name of the HTTP library's error for it."""


class Exchange(Protocol):
    """One call whose answer has begun."""

    @property
    def status(self) -> int: ...

    @property
    def ended(self) -> bool:
        """Known to be whole: nothing of the body is to come."""
        ...

    def header(self, name: str) -> str | None:
        """A header of the answer; ``name`` in lower case."""
        ...

    async def read(self) -> bytes:
        """What has arrived of the body, without content encoding; b"" at its end.

        Raises:
            ExchangeFailed: the connection was lost, or what comes is not HTTP.
        """
        ...

    async def aclose(self) -> None: ...


class Target(Protocol):
    """An address with the headers of every call to it, written once."""

    async def send(self, content: bytes) -> Exchange:
        """Post the content, once, and return when the head of the answer is here. No redirect is followed.

        Raises:
            ExchangeFailed: it cannot be reached, was lost, or does not answer with HTTP.
        """
        ...


class ModelClient(Protocol):
    """Connections to model servers."""

    def target(self, url: str, headers: Mapping[str, str]) -> Target:
        """Prepare calls.

        Raises:
            ValueError: the address or a header cannot be sent; the text may quote it.
        """
        ...

    async def aclose(self) -> None: ...
