"""Where calls meet the HTTP library: requests, settings, and its errors as ours. Imports it only when it is used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import TYPE_CHECKING, TypedDict, TypeVar
from urllib.parse import urlsplit

from kheish.sdk.connection import Connection
from kheish.sdk.errors import ConnectionFailed, InvalidArgument, KheishError, RequestTimeout, UnexpectedResponse
from kheish.sdk.sse import MEDIA_TYPE
from kheish.sdk.wire import Call, Reply, error_of, media_type

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")
_MAX_CONNECT_SECONDS = 10.0


class ClientSettings(TypedDict):
    """What both HTTP clients are built with."""

    timeout: float
    trust_env: bool
    verify: bool


def client_settings(connection: Connection) -> ClientSettings:
    """Proxies of the environment are for other machines; certificates are loaded only where they are used."""
    return {
        "timeout": connection.timeout_seconds,
        "trust_env": not _is_loopback(connection.base_url),
        "verify": urlsplit(connection.base_url).scheme != "http",
    }


def request(
    client: httpx2.Client | httpx2.AsyncClient,
    connection: Connection,
    call: Call[T],
    limit: float,
    *,
    idle: float | None = None,
) -> httpx2.Request:
    """The call as a request of the library; ``idle`` is how long an answer may pause."""
    import httpx2

    timeout = httpx2.Timeout(limit, connect=min(limit, _MAX_CONNECT_SECONDS), read=idle or limit)
    try:
        return client.build_request(
            call.method,
            f"{connection.base_url}{call.target}",
            content=call.content(),
            headers={**connection.headers(), **call.headers()},
            timeout=timeout,
        )
    except (httpx2.InvalidURL, UnicodeEncodeError):
        raise InvalidArgument("the request has no valid path or headers") from None


def headers(response: httpx2.Response) -> dict[str, str]:
    """Header names in lower case."""
    return {name.lower(): value for name, value in response.headers.items()}


def is_stream(response: httpx2.Response) -> bool:
    """Whether the answer is the stream that was asked for."""
    return response.status_code == 200 and media_type(headers(response)) == MEDIA_TYPE


def not_a_stream(refusal: Reply) -> KheishError:
    """Why there is no stream."""
    if refusal.status == 200:
        return UnexpectedResponse("the answer is not an event stream")
    return error_of(refusal)


@contextmanager
def failures(connection: Connection, limit: float) -> Iterator[None]:
    """Turn the library's errors into ours; its own hold the request and with it the token.

    Raises:
        ConnectionFailed: no connection, or a broken one.
        RequestTimeout: no answer in time.
        UnexpectedResponse: the answer is no proper HTTP.
    """
    import httpx2

    failure: KheishError
    try:
        yield
        return
    except httpx2.TimeoutException:
        failure = too_slow(connection, limit)
    except httpx2.TransportError as error:
        # The text of a protocol error may quote headers.
        named = isinstance(error, httpx2.NetworkError)
        reason = str(error) if named and str(error) else type(error).__name__
        failure = ConnectionFailed(f"no connection to the daemon at {connection.base_url}: {reason}")
    except httpx2.RequestError as error:
        failure = UnexpectedResponse(f"the answer could not be read: {type(error).__name__}")
    raise failure


def too_slow(connection: Connection, limit: float) -> RequestTimeout:
    """The error for an answer that did not come in time."""
    return RequestTimeout(f"no answer from the daemon at {connection.base_url} in {limit:g} s")


def _is_loopback(base_url: str) -> bool:
    host = urlsplit(base_url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
