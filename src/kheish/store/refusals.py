"""What SQLite's errors mean for whoever wanted to write."""

from __future__ import annotations

import sqlite3

from kheish.core.problems import StoreRejected, StoreUnavailable

_PASSING = frozenset(
    (
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
    )
)
"""Primary result codes of a store that may take the same write later."""


def may_pass(error: sqlite3.Error) -> bool:
    """The same may succeed later, once the disk has room again or is repaired."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return code is None or (code & 0xFF) in _PASSING


def refusal(error: sqlite3.Error) -> StoreUnavailable:
    """What a caller is told of a write that failed."""
    if may_pass(error):
        told = StoreUnavailable(f"The store refused a write ({error}); nothing was changed.")
    else:
        told = StoreRejected(
            f"The store cannot take this write ({error}); nothing was changed. Look with `kheish-daemon state verify`."
        )
    told.__cause__ = error
    return told
