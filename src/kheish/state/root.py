"""The files of a state root, as the state tools see them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kheish.core.problems import Problem
from kheish.store import snapshot
from kheish.store.inspection import find_damage
from kheish.store.lock import StateLock

DATABASE = "kheish.db"
BLOBS = "blobs"
BACKUPS = "backups"
RESTORING = ".restoring"
"""Ends the name of a folder in which a restore prepares a state; it is gone when the restore is done."""
MASTER_KEY = "auth-store-master.key"
AUDIT_KEY = "audit-signing.key"
"""Copied by a backup, unlike the master key: without it a daemon does not start on the copy."""


class StateRefused(Problem):
    """The command cannot work on this state root, or with these places."""

    domain, code, status = "storage", "state_refused", 400


class StateUnreadable(Problem):
    """The database cannot be read."""

    domain, code, status = "storage", "state_unreadable", 500


@contextmanager
def reading(state_root: Path) -> Iterator[sqlite3.Connection]:
    """One unchanging view of the database, with or without a daemon on it.

    Raises:
        StateRefused: there is no database.
        StateUnreadable: it cannot be opened or read.
        DatabaseMoved: a daemon started meanwhile.
    """
    if not (state_root / DATABASE).is_file():
        raise no_state(state_root)
    with reading_file(state_root / DATABASE) as connection:
        yield connection


@contextmanager
def reading_file(path: Path) -> Iterator[sqlite3.Connection]:
    """One unchanging view of a database file.

    Raises:
        StateUnreadable: it cannot be opened or read.
        DatabaseMoved: a daemon started meanwhile.
    """
    require_undamaged(path)
    try:
        with snapshot.reading(path) as connection:
            yield connection
    except sqlite3.Error as error:
        raise _unreadable(path, str(error)) from error


def require_undamaged(path: Path) -> None:
    """Look before anything opens it: to read a damaged log is to wipe out the signs that commits are missing from it.

    Raises:
        StateUnreadable: it is damaged, or cannot be opened.
    """
    try:
        fault = find_damage(path)
    except (OSError, sqlite3.Error) as error:
        raise _unreadable(path, str(error)) from error
    if fault is not None:
        raise _unreadable(path, fault)


def _unreadable(path: Path, fault: str) -> StateUnreadable:
    return StateUnreadable(
        f"The database {path} cannot be read: {fault}. Restore a backup with `kheish-daemon state restore`."
    )


def no_state(state_root: Path) -> StateRefused:
    return StateRefused(f"There is no state below {state_root}: {DATABASE} is missing. Name it with --state-root.")


@contextmanager
def locked(state_root: Path) -> Iterator[None]:
    """Nothing else owns the state root meanwhile.

    Raises:
        StateRootLocked: a daemon runs on it.
        StateRefused: the lock cannot be taken here.
    """
    lock = StateLock(state_root)
    try:
        lock.acquire()
    except OSError as error:
        raise StateRefused(f"{lock.path} cannot be locked: {error.strerror}.") from error
    try:
        yield
    finally:
        lock.release()


def blob_files(state_root: Path) -> Iterator[Path]:
    """Everything below blobs/, in order."""
    yield from sorted(path for path in (state_root / BLOBS).rglob("*") if path.is_file())
