"""The one error family of the daemon; `http.problems` renders it as problem+json."""

from __future__ import annotations

from typing import ClassVar


class Problem(Exception):
    """The daemon hit something it understands."""

    domain: ClassVar[str | None] = None
    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500

    def __init__(self, detail: str | None = None) -> None:
        self.detail = detail or (type(self).__doc__ or "").strip()
        super().__init__(self.detail)


class BadRequest(Problem):
    """The request is not usable as it is."""

    code, status = "bad_request", 400


class Conflict(Problem):
    """The request contradicts the current state."""

    code, status = "conflict", 409


class InvalidFields(Problem):
    """A field is missing or has the wrong type."""

    code, status = "daemon_error", 422


class StoreUnreadable(Problem):
    """The store could not be read."""

    domain, code, status = "storage", "store_unreadable", 503


class StoreUnavailable(Problem):
    """The store refused a write; nothing was changed."""

    domain, code, status = "storage", "store_unavailable", 503


class StoreRejected(StoreUnavailable):
    """The store cannot take this write, now or later; nothing was changed."""

    domain, code, status = "storage", "store_rejected", 500
