"""A consistent copy of a database that may be written to meanwhile."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from kheish.store.files import sync

Progress = Callable[[int, int], None]
"""Called with what is done and how much there is in all; the unit is the caller's."""

_PAGES_PER_STEP = 2048


def open_for_reading(path: Path) -> sqlite3.Connection:
    """A connection that changes nothing, whether or not a daemon writes at the same time.

    Raises:
        sqlite3.Error: there is no database, or it cannot be read.
    """
    # Without a log beside it nobody has the file open: then not even the files of a log are made, which a daemon of
    # another user could not use later.
    mode = "mode=ro" if path.with_name(f"{path.name}-wal").exists() else "immutable=1"
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, isolation_level=None)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA busy_timeout = 5000")
    return connection


def copy_database(source: Path, target: Path, progress: Progress | None = None) -> None:
    """Write the database as it is at one moment to ``target``, synced, for its owner only.

    Raises:
        FileExistsError: ``target`` is there already.
        sqlite3.Error, OSError: the copy failed; what was written of it is removed.
    """
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    os.close(descriptor)
    try:
        _copy(source, target, progress)
        sync(target)
        sync(target.parent)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _copy(source: Path, target: Path, progress: Progress | None) -> None:
    def report(status: int, remaining: int, total: int) -> None:
        if progress is not None:
            progress(total - remaining, total)

    reader = open_for_reading(source)
    writer = sqlite3.connect(target)
    try:
        # One read transaction around all steps: without it a daemon that writes would make the copy start over.
        reader.execute("BEGIN")
        reader.execute("SELECT COUNT(*) FROM sqlite_schema").fetchone()
        reader.backup(writer, pages=_PAGES_PER_STEP, progress=report)
    finally:
        writer.close()
        reader.close()
