"""Which web pages may call the daemon (Cross-Origin Resource Sharing)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from kheish.core.problems import Problem
from kheish.core.values import value_class

_LOOPBACK = re.compile(r"https?://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
_VARY = "origin, access-control-request-method, access-control-request-headers"
_METHODS = "GET,HEAD,POST,PUT,PATCH,DELETE,OPTIONS"
_HEADERS = "authorization,content-type,x-kheish-daemon-token,x-kheish-daemon-url"
_MAX_AGE_S = "600"


class CorsRefused(Problem):
    """A configured origin cannot be used."""

    code, status = "settings_refused", 500


@value_class(frozen=True, kw_only=True, slots=True)
class CorsPolicy:
    """Without a list every loopback origin is allowed; with one, exactly its members."""

    origins: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """`loopback` or `exact`, as the status shows it."""
        return "exact" if self.origins else "loopback"

    def allows(self, origin: str) -> bool:
        """Whether a page of this origin may call."""
        return origin in self.origins if self.origins else is_loopback_origin(origin)


def is_loopback_origin(origin: str) -> bool:
    """An http or https origin of this machine, with nothing after the port."""
    return _LOOPBACK.fullmatch(origin) is not None


def cors_policy(origins: Iterable[str]) -> CorsPolicy:
    """The policy for the configured origins; duplicates are merged.

    Raises:
        CorsRefused: an origin is not one of this machine.
    """
    unique = tuple(dict.fromkeys(origin.strip() for origin in origins))
    for origin in unique:
        if not is_loopback_origin(origin):
            raise CorsRefused(
                f"--http-cors-allow-origin {origin!r} is not a loopback origin such as http://localhost:5173. "
                "Pages of other machines are never allowed; put a reverse proxy in front."
            )
    return CorsPolicy(origins=unique)


def allowing(origin: str) -> dict[str, str]:
    """The response headers for an allowed origin."""
    return {
        "access-control-allow-origin": origin,
        "access-control-allow-methods": _METHODS,
        "access-control-allow-headers": _HEADERS,
        "access-control-max-age": _MAX_AGE_S,
        "vary": _VARY,
    }
