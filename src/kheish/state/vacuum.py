"""state vacuum: the database without its holes, and nothing else changed.

Journals, runs and outputs are never shortened. What goes is free space, and files of writes that never ended.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from kheish.core.jsonvalue import JsonObject
from kheish.state import root, store
from kheish.state.root import StateRefused, StateUnreadable
from kheish.store.files import sync

BACKUP_SUFFIX = ".vacuum-bak"
Step = Callable[[str], None]
"""Told what is done next."""


def vacuum(state_root: Path, *, step: Step = lambda name: None) -> JsonObject:
    """Rewrite the database compactly; the file as it was stays beside it.

    Raises:
        StateRefused: an earlier backup is still there, there is no database, something else reads it, there is no
            room, or the copy differs; nothing was changed.
        StateRootLocked: a daemon runs on this state root.
        StateUnreadable: the database cannot be read.
    """
    path, backup = state_root / root.DATABASE, state_root / f"{root.DATABASE}{BACKUP_SUFFIX}"
    if not path.is_file():
        raise root.no_state(state_root)
    with root.locked(state_root):
        if backup.exists():
            raise StateRefused(f"{backup} of an earlier vacuum is still there. Delete it when you no longer need it.")
        root.require_undamaged(path)
        before = path.stat().st_size
        _rewrite(path, backup, step)
        removed = _remove_unfinished(state_root)
    return {
        "path": str(path),
        "backup_path": str(backup),
        "bytes_before": before,
        "bytes_after": path.stat().st_size,
        "unfinished_files_removed": removed,
    }


def vacuum_session(state_root: Path, session_id: str, *, step: Step = lambda name: None) -> JsonObject:
    """`vacuum`, reported for one session.

    Raises:
        StateRefused: there is no such session; and as for `vacuum`.
    """
    with root.reading(state_root) as connection:
        if store.session(connection, session_id) is None:
            raise StateRefused(f"There is no session {session_id!r}.")
    report = vacuum(state_root, step=step)
    with root.reading(state_root) as connection:
        kept = Counter(bytes(row["type"]).decode(errors="replace") for row in store.journal(connection, session_id))
    return {
        "session_id": session_id,
        **report,
        "kept_by_type": dict(sorted(kept.items())),
        # Rows have neither superseded metadata nor torn tails; the names are those of the documented interface.
        "metadata_keys_kept": [],
        "metadata_records_dropped": 0,
        "torn_tail_dropped": False,
    }


def _rewrite(path: Path, backup: Path, step: Step) -> None:
    compact = path.with_name(f".{path.name}.vacuum")
    compact.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            _empty_log(connection, path)
            step("writing the compact file")
            connection.execute("VACUUM INTO ?", (str(compact),))
        with closing(sqlite3.connect(compact, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
        compact.chmod(0o600)
        step("comparing every row")
        if content_digest(compact) != content_digest(path):
            raise StateRefused(f"The compact copy of {path} differs from it; nothing was changed.")
        for leftover in (f"{path}-wal", f"{path}-shm"):
            Path(leftover).unlink(missing_ok=True)
        sync(compact)
        backup.hardlink_to(path)
        compact.rename(path)
        sync(path.parent)
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            raise StateRefused(f"There is no room beside {path} for its copy; nothing was changed.") from error
        raise StateUnreadable(
            f"The database {path} cannot be read: {error}. Look with `kheish-daemon state verify`."
        ) from error
    except OSError as error:
        raise StateRefused(f"{path} could not be rewritten: {error.strerror}. It is as before.") from error
    finally:
        for name in (compact, Path(f"{compact}-wal"), Path(f"{compact}-shm")):
            name.unlink(missing_ok=True)


def _empty_log(connection: sqlite3.Connection, path: Path) -> None:
    # Into the file itself: what the log holds must be in the file that is kept, for the log goes.
    busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    if busy:
        raise StateRefused(f"Something else reads {path}, a backup or a check. Try again when that is done.")


def content_digest(path: Path) -> str:
    """A digest of every row of every table, in one order, whatever the pages look like."""
    found = hashlib.sha256()
    with root.reading_file(path) as connection:
        for name in [*store.tables(connection), *(["sqlite_sequence"] if store.counts_ids(connection) else [])]:
            found.update(f"\n{name}\n".encode())
            columns = connection.execute(f'SELECT * FROM "{name}" LIMIT 0').description or ()  # noqa: S608  # its own tables
            order = ", ".join(str(number) for number in range(1, len(columns) + 1))
            for row in connection.execute(f'SELECT * FROM "{name}" ORDER BY {order}'):  # noqa: S608  # as above
                found.update(repr(tuple(row)).encode(errors="surrogateescape"))
    return found.hexdigest()


def _remove_unfinished(state_root: Path) -> int:
    unfinished = [path for path in root.blob_files(state_root) if path.name.startswith(".")]
    for path in unfinished:
        path.unlink()
    return len(unfinished)
