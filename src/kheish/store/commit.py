"""What the units of one commit share: rows that are written together, and who wrote about whom."""

from __future__ import annotations

import sqlite3
from collections import defaultdict

from kheish.store.rows import Statement


class Commit:
    """Made anew when its units are run again."""

    __slots__ = ("_connection", "_data_version", "_subjects", "failures", "waiting")

    def __init__(self, connection: sqlite3.Connection, failures: int) -> None:
        self._connection = connection
        self.failures = failures
        """Commits that failed so far."""
        self.waiting: defaultdict[Statement, list[tuple[object, ...]]] = defaultdict(list)
        """Rows of all units, written together: one statement a table."""
        self._subjects: set[str] = set()
        self._data_version: int | None = None

    @property
    def data_version(self) -> int:
        """Changes when another connection than the writer's changed the database."""
        if self._data_version is None:
            self._data_version = self._connection.execute("PRAGMA data_version").fetchone()[0]
        return self._data_version

    def write_waiting(self) -> sqlite3.Connection:
        """Write the rows that wait, a statement's rows in their order."""
        while self.waiting:
            statement, rows = next(iter(self.waiting.items()))
            statement.run(self._connection, rows)
            # Only now: rows that could not be written fail this commit, whoever was told of it.
            del self.waiting[statement]
        return self._connection

    def forget_waiting(self) -> None:
        self.waiting.clear()

    def first_of(self, subject: str) -> bool:
        """Whether no unit before wrote about ``subject``; what another one wrote of it is in its tables now."""
        if subject in self._subjects:
            self.write_waiting()
            return False
        self._subjects.add(subject)
        return True
