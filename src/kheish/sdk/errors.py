"""Everything the client raises on purpose. No message ever contains the token."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kheish.sdk.types import RunView


class KheishError(Exception):
    """Base of every error of this client."""


class InvalidArgument(KheishError, ValueError):
    """An argument could not be turned into a request; nothing was sent."""


class ConnectionFailed(KheishError):
    """The daemon could not be reached, or the connection broke before it had answered."""


class RequestTimeout(ConnectionFailed, TimeoutError):
    """The daemon did not answer in time. Whether it acted on the request is not known."""


class UnexpectedResponse(KheishError):
    """The answer is not what this API promises: another program listens there, or another version."""


class StreamBroken(KheishError):
    """An event stream carried something that is no event, or a frame larger than the limit."""


class WaitTimeout(KheishError, TimeoutError):
    """The time given to a wait is over. The run goes on."""

    def __init__(self, run_id: str, seconds: float) -> None:
        self.run_id = run_id
        self.seconds = seconds
        super().__init__(f"{run_id} was not done after {seconds:g} s; it goes on")


class RunFailed(KheishError):
    """The run ended as failed, interrupted or cancelled."""

    def __init__(self, run: RunView) -> None:
        self.run = run
        self.status = run.status
        self.error = run.error
        super().__init__(f"{run.run_id} {run.status}" + (f": {run.error}" if run.error else ""))


class ApiError(KheishError):
    """The daemon refused the request. Branch on the type or on `code`, never on `detail`."""

    def __init__(self, *, status: int, code: str, domain: str | None, detail: str) -> None:
        self.status = status
        """The HTTP status."""
        self.code = code
        self.domain = domain
        """The part of the daemon the code belongs to."""
        self.detail = detail
        """For people."""
        name = code if domain is None else f"{domain}/{code}"
        super().__init__(f"{status} {name}: {detail}" if detail else f"{status} {name}")


class BadRequest(ApiError):
    """The request is wrong as it is; sending it again does not help."""


class AuthError(ApiError):
    """The daemon wants a token, or does not know this one."""


class PermissionDenied(ApiError):
    """The token may not do this."""


class NotFound(ApiError):
    """No such session, run or endpoint."""


class ConflictError(ApiError):
    """The state of the session or run does not allow this now."""


class RateLimited(ApiError):
    """Too many requests."""

    def __init__(
        self, *, status: int, code: str, domain: str | None, detail: str, retry_after: float | None = None
    ) -> None:
        super().__init__(status=status, code=code, domain=domain, detail=detail)
        self.retry_after = retry_after
        """Seconds to wait before the next attempt, when the daemon named them."""


class ServerError(ApiError):
    """The daemon failed on the request, or is shutting down."""
