"""Many rows in one statement: each statement gives the interpreter's lock away and waits to get it back."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence

_MANY = (32, 16, 8)
"""Rows of one statement, or fewer than the least: a connection keeps a statement ready for each count, in memory."""


class Statement:
    """A statement that takes many rows: ``before`` is what comes before their values, ``after`` what follows them."""

    __slots__ = ("_after", "_before", "_counted", "_row", "_texts")

    def __init__(
        self, before: str, columns: int, after: str = "", *, alone: str | None = None, counted: bool = False
    ) -> None:
        """``alone`` does the same with one row, for less."""
        self._before, self._after = before, after
        self._counted = counted
        self._row = f"({', '.join('?' * columns)})"
        self._texts = {} if alone is None else {1: alone}

    def run(self, connection: sqlite3.Connection, rows: Sequence[tuple[object, ...]]) -> int:
        """Write ``rows``, in their order, and return the rowid of the last one if it was inserted.

        Raises:
            sqlite3.IntegrityError: a row contradicts what is there, or one to change is not; others may have been
                written.
        """
        last = start = 0
        left = len(rows)
        while left:
            count = left if left < _MANY[-1] else next(many for many in _MANY if many <= left)
            some = rows[start : start + count]
            values = some[0] if count == 1 else [value for row in some for value in row]
            text = self._texts.get(count) or self._text(count)
            if self._counted:
                before = connection.total_changes
                connection.execute(text, values)
                if connection.total_changes - before != count:
                    raise _gone()
            else:
                last = connection.execute(text, values).lastrowid or 0
            start += count
            left -= count
        return last

    def _text(self, rows: int) -> str:
        text = self._texts[rows] = f"{self._before} {', '.join([self._row] * rows)} {self._after}"
        return text


def _gone() -> sqlite3.IntegrityError:
    error = sqlite3.IntegrityError("a row to change is gone")
    # As SQLite says it of rows that contradict each other: it will not get better by itself.
    error.sqlite_errorcode = sqlite3.SQLITE_CONSTRAINT
    return error


def insertion(into: str, on_conflict: str = "") -> Statement:
    """Insert rows; ``into`` names a table and the columns of a row."""
    return Statement(f"INSERT INTO {into} VALUES", into.count(",") + 1, on_conflict)


def change(table: str, key: str, columns: Sequence[str], changes: str) -> Statement:
    """Change the rows of ``table`` with these keys, which must be there, at most once each.

    A row of values is the key and ``columns``; ``changes`` says what becomes of them, which it knows as `new`.
    """
    names = (key, *columns)
    places = {name: f"?{place}" for place, name in enumerate(names, start=1)}
    values = re.sub(r"\bnew\.(\w+)", lambda found: places[found[1]], changes)
    return Statement(
        f"WITH new ({', '.join(names)}) AS (VALUES",
        len(names),
        f") UPDATE {table} SET {changes} FROM new WHERE {table}.{key} = new.{key}",  # noqa: S608  # made of constants
        alone=f"UPDATE {table} SET {values} WHERE {key} = ?1",  # noqa: S608
        counted=True,
    )
