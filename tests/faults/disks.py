"""Databases on disks that fail when a test says so."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any

from kheish.store.database import SqliteDatabase


class Fault(Enum):
    FULL = auto()
    """No room: nothing is written."""
    SYNC = auto()
    """The write could not be synced: nothing counts as written."""
    LOST_ANSWER = auto()
    """It was written and synced, and the answer says that it was not."""


_WORDS = {
    Fault.FULL: "database or disk is full",
    Fault.SYNC: "disk I/O error",
    Fault.LOST_ANSWER: "disk I/O error",
}


@dataclass
class Disk:
    """What the disk does from now on."""

    fault: Fault | None = None
    commits: int = 0
    """Tried, the failed ones included."""
    heal_after: int | None = None
    """The fault ends after this many more commits."""

    def open(self, path: Path) -> SqliteDatabase:
        """For `open_daemon(open_database=...)`."""
        return FaultyDatabase(path, self)

    def commit(self, really: Callable[[], Any]) -> Any:
        self.commits += 1
        fault = self.fault
        if fault is not None and self.heal_after is not None:
            self.heal_after -= 1
            if self.heal_after <= 0:
                self.fault, self.heal_after = None, None
        if fault is None or fault is Fault.LOST_ANSWER:
            done = really()
        if fault is not None:
            raise sqlite3.OperationalError(_WORDS[fault])
        return done


class FaultyDatabase(SqliteDatabase):
    """The real database; only the end of a commit passes through the disk."""

    def __init__(self, path: Path, disk: Disk) -> None:
        self._disk = disk
        super().__init__(path)

    def _connect(self, *, read_only: bool = False) -> sqlite3.Connection:
        connection = super()._connect(read_only=read_only)
        return connection if read_only else _Watched(connection, self._disk)  # type: ignore[return-value]  # its twin


class _Watched:
    def __init__(self, connection: sqlite3.Connection, disk: Disk) -> None:
        self._connection = connection
        self._disk = disk

    def execute(self, sql: str, *arguments: Any) -> Any:
        if sql == "COMMIT":
            return self._disk.commit(lambda: self._connection.execute(sql))
        return self._connection.execute(sql, *arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)
