"""What the units of one commit share: rows that are written together, and who wrote about whom."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from kheish.store.rows import Statement


class Commit:
    """Made anew when its units are run again."""

    __slots__ = ("_connection", "_data_version", "_subjects", "_waiting", "failures")

    def __init__(self, connection: sqlite3.Connection, failures: int) -> None:
        self._connection = connection
        self.failures = failures
        """Commits that failed so far."""
        self._waiting: dict[Statement, list[tuple[object, ...]]] = {}
        """Rows of all units, written together: one statement a table."""
        self._subjects: set[str] = set()
        self._data_version: int | None = None

    @property
    def data_version(self) -> int:
        """Changes when another connection than the writer's changed the database."""
        if self._data_version is None:
            self._data_version = self._connection.execute("PRAGMA data_version").fetchone()[0]
        return self._data_version

    def add(self, statement: Statement, rows: Sequence[tuple[object, ...]]) -> None:
        waiting = self._waiting.get(statement)
        if waiting is None:
            waiting = self._waiting[statement] = []
        waiting += rows

    def write_waiting(self) -> sqlite3.Connection:
        """Write the rows that wait, a statement's rows in their order."""
        while self._waiting:
            statement = next(iter(self._waiting))
            statement.run(self._connection, self._waiting[statement])
            # Only now: rows that could not be written fail this commit, whoever was told of it.
            del self._waiting[statement]
        return self._connection

    def forget_waiting(self) -> None:
        self._waiting = {}

    def first_of(self, subject: str) -> bool:
        """Whether no unit before wrote about ``subject``; what another one wrote of it is in its tables now."""
        if subject in self._subjects:
            self.write_waiting()
            return False
        self._subjects.add(subject)
        return True
