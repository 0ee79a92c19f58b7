"""The state root: taken for this process alone, checked, and its database opened."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from pathlib import Path

import structlog

from kheish.core.problems import Problem
from kheish.daemon.settings import Settings
from kheish.state.root import BACKUPS, RESTORING
from kheish.store.database import SqliteDatabase
from kheish.store.feed import Feed
from kheish.store.inspection import find_damage, tables
from kheish.store.lock import StateLock
from kheish.store.migrations import LEDGER, migrate
from kheish.store.refusals import may_pass

log = structlog.get_logger(__name__)

OpenDatabase = Callable[[Path], SqliteDatabase]


class StateRootUnusable(Problem):
    """The state root cannot be used."""

    domain, code, status = "storage", "state_rootunusable", 500


@contextmanager
def explained(state_root: Path) -> Iterator[None]:
    """Tell an operator whose database does not open what to do."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        said = error.strerror if isinstance(error, OSError) else str(error)
        if isinstance(error, OSError) or may_pass(error):
            advice = f"Make room below {state_root}, or repair its permissions, mount or disk, and start again. If that"
            raise _unusable(state_root, str(said), f"{advice} is not it, look") from error
        raise _unusable(state_root, str(said), "Look") from error


def _unusable(state_root: Path, fault: str, advice: str = "Look") -> StateRootUnusable:
    return StateRootUnusable(
        f"The database {state_root / 'kheish.db'} cannot be used: {fault}. Nothing was changed. "
        f"{advice} with `kheish-daemon state verify --state-root {state_root}`, "
        "and restore a backup with `kheish-daemon state restore`."
    )


def open_store(settings: Settings, open_database: OpenDatabase, stack: AsyncExitStack) -> tuple[SqliteDatabase, Feed]:
    """Open the database and bring it up to date; ``stack`` closes it.

    Raises:
        StateRootUnusable: it is damaged, or not ours.
        Problem: it belongs to a newer release.
    """
    path = settings.state_root / "kheish.db"
    if (fault := find_damage(path)) is not None:
        raise _unusable(settings.state_root, fault)
    if (found := tables(path)) and LEDGER not in found:
        raise _unusable(settings.state_root, "it is the database of another program")
    database = open_database(path)
    stack.callback(database.close)
    database.run_offline(partial(migrate, backups=settings.state_root / "backups"))
    feed = Feed(database, capacity=settings.event_history_capacity)
    database.run_offline(feed.load)
    database.attach(feed)
    return database, feed


def take_state_root(settings: Settings) -> StateLock:
    """Create the state root if need be, and lock it.

    Raises:
        StateRootLocked: another daemon owns it.
        StateRootUnusable: it cannot be created or written, or the workspace lies inside it.
    """
    root = settings.state_root
    if settings.workspace_root.is_relative_to(root.resolve()):
        raise StateRootUnusable(
            f"The workspace {settings.workspace_root} lies inside the state root {root}: tools could touch nothing in "
            "it. Use separate directories."
        )
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StateRootUnusable(f"The state root {root} cannot be created: {error.strerror}.") from error
    if unfinished := list((root / BACKUPS).glob(f".*{RESTORING}")):
        raise StateRootUnusable(
            f"A restore into {root} was interrupted. Repeat `kheish-daemon state restore` with --replace. If the state "
            f"is still what it was before and you want to keep it, delete {unfinished[0]}."
        )
    if root.resolve().is_relative_to(settings.workspace_root):
        log.warning(
            "daemon.state_root_inside_workspace",
            state_root=str(root),
            workspace_root=str(settings.workspace_root),
            consequence="file tools treat it as closed, but a shell command can reach it",
        )
    lock = StateLock(root)
    try:
        lock.acquire()
    except OSError as error:
        raise StateRootUnusable(f"The state root {root} is not writable: {error.strerror}.") from error
    return lock
