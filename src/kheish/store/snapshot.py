"""A consistent view, and a consistent copy, of a database that may be written to meanwhile."""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from kheish.core.problems import Problem
from kheish.store.files import sync

Progress = Callable[[int, int], None]
"""Called with what is done and how much there is in all; the unit is the caller's."""

PARTIAL = ".partial"
"""How the name of a copy ends that is not complete; it begins with a dot."""
ATTEMPTS = 3
"""One may meet a daemon that starts, the next one finds it running; a third is for a daemon that starts twice."""
_PAGES_PER_STEP = 2048


class DatabaseMoved(Problem):
    """A daemon began to write while the file was read without its log."""

    domain, code, status = "storage", "database_moved", 409

    def __init__(self, path: Path) -> None:
        super().__init__(f"A daemon began to write to {path} while it was read. Run the command again.")


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection with one unchanging view that changes nothing, with or without a daemon that writes.

    Raises:
        DatabaseMoved: a daemon started meanwhile; what was read may be of two minds.
        sqlite3.Error: there is no database, or it cannot be read.
    """
    # Without a log beside it nobody has the file open: then not even the files of a log are made, which a daemon of
    # another user could not use later. But nothing then keeps a daemon that starts from changing pages meanwhile.
    alone = None if _log(path).exists() else _identity(path)
    try:
        with closing(_opened(path, immutable=alone is not None)) as connection:
            connection.execute("BEGIN")
            connection.execute("SELECT COUNT(*) FROM sqlite_schema").fetchone()
            yield connection
    finally:
        if alone is not None and (_log(path).exists() or _identity(path) != alone):
            raise DatabaseMoved(path)


def copy_database(source: Path, target: Path, progress: Progress | None = None) -> None:
    """Write the database as it is at one moment to ``target``, synced, for its owner only; whole or not at all.

    Raises:
        FileExistsError: ``target`` is there already.
        DatabaseMoved: daemons started again and again meanwhile.
        sqlite3.Error, OSError: the copy failed.
    """
    if target.exists():
        raise FileExistsError(f"{target} is there already")
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        for attempt in range(1, ATTEMPTS + 1):
            os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))
            try:
                _copy(source, partial, progress)
                break
            except DatabaseMoved:
                if attempt == ATTEMPTS:
                    raise
        sync(partial)
        partial.rename(target)
        sync(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def _log(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _identity(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except FileNotFoundError:
        return 0, 0, 0
    return found.st_ino, found.st_size, found.st_mtime_ns


def _opened(path: Path, *, immutable: bool) -> sqlite3.Connection:
    mode = "immutable=1" if immutable else "mode=ro"
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, isolation_level=None)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA busy_timeout = 5000")
    return connection


def _copy(source: Path, target: Path, progress: Progress | None) -> None:
    def report(status: int, remaining: int, total: int) -> None:
        if progress is not None:
            progress(total - remaining, total)

    # The reader's transaction spans all steps: without it a daemon that writes would make the copy start over.
    with reading(source) as reader, closing(sqlite3.connect(target)) as writer:
        reader.backup(writer, pages=_PAGES_PER_STEP, progress=report)
