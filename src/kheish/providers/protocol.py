"""What the engine needs from a model provider, and nothing more."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import field
from enum import StrEnum
from typing import NamedTuple, Protocol

from kheish.core.messages import FinishReason, Generation, Message, Part, ToolSpec, Usage
from kheish.core.values import value_class


@value_class(frozen=True, kw_only=True, slots=True)
class Continuation:
    """The reply a request goes on from, as the provider that made it may still know it."""

    response_id: str
    known_messages: int
    """How many of the request's messages it covers, from the first one to the reply itself."""


@value_class(frozen=True, kw_only=True, slots=True)
class ModelRequest:
    """One model call, complete: an adapter needs nothing else and remembers nothing."""

    model: str
    system: tuple[str, ...]
    """Instruction sections, most stable first."""
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...]
    generation: Generation
    """Merged already; `generation.model` is not looked at again."""
    cache_key: str | None = None
    """Stable for one session; a hint for providers that cache prefixes."""
    continues: Continuation | None = None
    """For providers that keep replies: what need not be sent again. The messages are complete all the same."""
    before_send: Callable[[bytes], None] | None = field(default=None, compare=False, repr=False)
    """Told the request's bytes immediately before they go out; what it raises stops them."""


class TextDelta(NamedTuple):
    """A piece of visible text as it arrives. A tuple, since one is made for every token."""

    text: str
    part: int = 0


@value_class(frozen=True, kw_only=True, slots=True)
class ModelReply:
    """The whole reply. Tool calls carry the provider's ids only: the engine mints `call_id` (adapters leave "")."""

    parts: tuple[Part, ...]
    finish_reason: FinishReason
    usage: Usage
    response_id: str | None = None


class ErrorKind(StrEnum):
    CONTEXT_WINDOW_EXCEEDED = "context_window_exceeded"
    RATE_LIMITED = "rate_limited"
    AUTH = "auth"
    INVALID_REQUEST = "invalid_request"
    SERVER_OVERLOADED = "server_overloaded"
    TRANSPORT = "transport"
    UNKNOWN = "unknown"


class ProviderError(Exception):
    """A model call failed. The text is safe to show: it holds no upstream free text and no credential."""

    def __init__(
        self,
        message: str,
        *,
        kind: ErrorKind,
        retryable: bool,
        status: int | None = None,
        retry_after_ms: int | None = None,
        retry_max_output_tokens: int | None = None,
        lost_continuation: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.kind = kind
        self.retryable = retryable
        self.status = status
        self.retry_after_ms = retry_after_ms
        """The provider's own wish, capped; None when it named none."""
        self.retry_max_output_tokens = retry_max_output_tokens
        """Rule 12 of the providers spec: retry at once with this ceiling."""
        self.lost_continuation = lost_continuation
        """The provider does not go on from the reply the request named."""


class Provider(Protocol):
    """One driver bound to one route's endpoint and credential."""

    driver: str

    def stream(self, request: ModelRequest) -> AsyncGenerator[TextDelta | ModelReply, None]:
        """Yield deltas, then exactly one `ModelReply`, last. Nothing is sent before the first is asked for.

        Whoever has the reply closes it, from whatever task and a moment later if there is better to do: what keeps a
        connection usable is done then.

        Raises:
            ProviderError: anything went wrong, a stream that ended before the provider's own last event included.
        """
        ...
