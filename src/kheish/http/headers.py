"""Request headers, as the server hands them over."""

from __future__ import annotations

from starlette.types import Scope


def first_headers(scope: Scope) -> dict[bytes, bytes]:
    """Values by lower-case name; of a header that is sent twice, the first."""
    return dict(reversed(scope["headers"]))
