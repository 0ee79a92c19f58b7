"""Many rows in one statement: each statement gives the interpreter's lock away and waits to get it back."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import lru_cache

_AT_ONCE = 32
"""Rows of one statement; each count is a statement of its own, and the connection keeps 128 of them ready."""


def insert_rows(connection: sqlite3.Connection, into: str, rows: Sequence[tuple[object, ...]]) -> int:
    """Insert ``rows`` and return the rowid of the last one. ``into`` names a table and the columns of a row.

    Raises:
        sqlite3.IntegrityError: a row contradicts what is there; the ones before it may have been inserted.
    """
    last = 0
    for start in range(0, len(rows), _AT_ONCE):
        chunk = rows[start : start + _AT_ONCE]
        values = [value for row in chunk for value in row]
        last = connection.execute(_statement(into, len(chunk[0]), len(chunk)), values).lastrowid or 0
    return last


@lru_cache(maxsize=4 * _AT_ONCE)
def _statement(into: str, columns: int, rows: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return f"INSERT INTO {into} VALUES {', '.join([row] * rows)}"  # noqa: S608  # made of constants
