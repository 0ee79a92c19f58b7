"""One HTTP exchange as values: what is sent, what came back, what it means. No I/O."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar
from urllib.parse import quote, urlencode

from kheish.sdk.errors import (
    ApiError,
    AuthError,
    BadRequest,
    ConflictError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    RateLimited,
    ServerError,
    UnexpectedResponse,
)
from kheish.sdk.jsonvalue import JsonObject, JsonValue

T = TypeVar("T")
MAX_PAGE = 100
"""The largest page the daemon gives."""
_MAX_DETAIL_CHARS = 2000
_MAX_FOREIGN_CHARS = 200
"""How much is shown of an error body that is no problem document."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Call(Generic[T]):
    """A request and how its answer is read."""

    method: str
    path: str
    """Percent-encoded, with a leading slash."""
    read: Callable[[JsonValue], T]
    params: Mapping[str, str] = field(default_factory=dict)
    body: JsonValue = None
    idempotency_key: str | None = None
    repeatable: bool = False
    """Whether sending it twice is the same as once."""
    timeout_seconds: float | None = None
    """Limit for the whole exchange; None is the client's."""
    accept: str = "application/json"
    last_event_id: str | None = None

    @property
    def target(self) -> str:
        """Path and query."""
        return f"{self.path}?{urlencode(self.params)}" if self.params else self.path

    def headers(self) -> dict[str, str]:
        """What this request needs besides the token."""
        found = {"accept": self.accept}
        if self.idempotency_key is not None:
            found["idempotency-key"] = self.idempotency_key
        if self.last_event_id is not None:
            found["last-event-id"] = self.last_event_id
        if self.method not in ("GET", "HEAD"):
            found["content-type"] = "application/json"
        return found

    def content(self) -> bytes | None:
        """The encoded body.

        Raises:
            InvalidArgument: the body is not JSON.
        """
        if self.body is None:
            return None
        try:
            return json.dumps(self.body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidArgument(f"the request is not JSON: {error}") from None


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What came back; header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def result_of(self, call: Call[T]) -> T:
        """The value the call asked for.

        Raises:
            ApiError: the daemon refused.
            UnexpectedResponse: the body is not what the API promises.
        """
        if not 200 <= self.status < 300:
            raise error_of(self)
        return call.read(self._value())

    def _value(self) -> JsonValue:
        if not self.body:
            return None
        if media_type(self.headers) != "application/json":
            return self.body.decode(errors="replace")
        try:
            value: JsonValue = json.loads(self.body)
        except (ValueError, RecursionError):
            raise UnexpectedResponse("the answer is not valid JSON") from None
        return value


def as_nothing(_: JsonValue) -> None:
    """For answers that are read elsewhere."""


def segment(name: str) -> str:
    """An id as exactly one path segment, whatever it contains.

    Raises:
        InvalidArgument: it is empty or not encodable.
    """
    if not name:
        raise InvalidArgument("an id must not be empty")
    if name in (".", ".."):
        return name.replace(".", "%2E")
    try:
        return quote(name, safe="")
    except UnicodeEncodeError:
        raise InvalidArgument("an id must be valid Unicode") from None


def media_type(headers: Mapping[str, str]) -> str:
    """The media type without its parameters."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


_BY_STATUS: dict[int, type[ApiError]] = {401: AuthError, 403: PermissionDenied, 404: NotFound, 409: ConflictError}


def error_of(reply: Reply) -> ApiError:
    """The error a refusal stands for; a body that is no problem document still gives a typed one."""
    problem = _problem(reply)
    code, domain = problem.get("code"), problem.get("domain")
    detail = problem.get("detail") or problem.get("title")
    status = reply.status
    shown_code = code if isinstance(code, str) else f"http_{status}"
    shown_domain = domain if isinstance(domain, str) else None
    shown_detail = detail[:_MAX_DETAIL_CHARS] if isinstance(detail, str) else _foreign_text(reply)
    if status == 429:
        return RateLimited(
            status=status,
            code=shown_code,
            domain=shown_domain,
            detail=shown_detail,
            retry_after=_retry_after(reply.headers),
        )
    kind = _BY_STATUS.get(status, BadRequest if 400 <= status < 500 else ServerError if status >= 500 else ApiError)
    return kind(status=status, code=shown_code, domain=shown_domain, detail=shown_detail)


def _problem(reply: Reply) -> JsonObject:
    try:
        value = json.loads(reply.body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _foreign_text(reply: Reply) -> str:
    if media_type(reply.headers) not in ("text/plain", "application/json", "application/problem+json"):
        return ""
    return reply.body[: _MAX_FOREIGN_CHARS * 4].decode(errors="replace")[:_MAX_FOREIGN_CHARS].strip()


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, from either form of the header."""
    given = headers.get("retry-after", "").strip()
    if given.isascii() and given.isdecimal():
        return float(given)
    from email.utils import parsedate_to_datetime  # slow to import, and our daemon sends seconds

    try:
        at = parsedate_to_datetime(given)
    except ValueError:
        return None
    return max(0.0, at.timestamp() - time.time())


def query(params: Mapping[str, str | int | bool | None]) -> dict[str, str]:
    """Query parameters as text."""
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in params.items()
        if value is not None
    }


def session_path(session_id: str, *rest: str) -> str:
    return "/".join(("/v1/sessions", segment(session_id), *rest))


def run_path(run_id: str, *rest: str) -> str:
    return "/".join(("/v1/runs", segment(run_id), *rest))
