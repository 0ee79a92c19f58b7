"""Where the daemon is and how the client talks to it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from kheish.sdk.errors import InvalidArgument, KheishError

DEFAULT_BASE_URL = "http://127.0.0.1:4000"
DEFAULT_TIMEOUT_SECONDS = 30.0
DEFAULT_MAX_RETRIES = 3
DEFAULT_GRACE_SECONDS = 15.0
"""How long a wait or a stream bears a daemon that does not answer: a restart takes less."""
_PRINTABLE = range(0x21, 0x7F)


@dataclass(frozen=True, kw_only=True, slots=True)
class Connection:
    """Validated settings of a client."""

    base_url: str
    token: str | None = field(repr=False)
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    max_retries: int = DEFAULT_MAX_RETRIES
    grace_seconds: float = DEFAULT_GRACE_SECONDS

    def headers(self) -> dict[str, str]:
        """The token, when there is one."""
        return {} if self.token is None else {"authorization": f"Bearer {self.token}"}

    def without_token(self, error: KheishError) -> KheishError:
        """The same error, with the token cut out should the other side have echoed it."""
        if self.token is None or self.token not in str(error):
            return error
        if hasattr(error, "detail"):
            error.detail = str(error.detail).replace(self.token, "[token]")
        error.args = tuple(str(part).replace(self.token, "[token]") for part in error.args)
        return error


def connection(
    base_url: str | None = None,
    token: str | None = None,
    timeout: float = DEFAULT_TIMEOUT_SECONDS,
    max_retries: int = DEFAULT_MAX_RETRIES,
    grace: float = DEFAULT_GRACE_SECONDS,
) -> Connection:
    """Check the settings.

    Raises:
        InvalidArgument: the URL is not a plain http(s) URL, or the token cannot be sent in a header.
    """
    return Connection(
        base_url=_checked_url(base_url or DEFAULT_BASE_URL),
        token=_checked_token(token),
        timeout_seconds=timeout,
        max_retries=max_retries,
        grace_seconds=grace,
    )


def environment(found: Mapping[str, str] | None = None) -> tuple[str | None, str | None]:
    """Base URL and token: KHEISH_BASE_URL and KHEISH_TOKEN, else KHEISH_DAEMON_URL and KHEISH_DAEMON_TOKEN."""
    given = os.environ if found is None else found
    url = given.get("KHEISH_BASE_URL") or given.get("KHEISH_DAEMON_URL")
    return url, given.get("KHEISH_TOKEN") or given.get("KHEISH_DAEMON_TOKEN")


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url.strip())
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
        usable = usable and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    # The URL may hold a password: no message repeats it.
    if not usable:
        raise InvalidArgument("the base URL must look like http://127.0.0.1:4000")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise InvalidArgument("the base URL must have no user, password, query or fragment")
    return url.strip().rstrip("/")


def _checked_token(token: str | None) -> str | None:
    stripped = (token or "").strip()
    if not all(ord(character) in _PRINTABLE for character in stripped):
        raise InvalidArgument("the token has characters that a header cannot carry")
    return stripped or None
