"""state vacuum: the database without its holes, and nothing else changed.

Journals, runs and outputs are never shortened. What goes is free space, and files of writes that never ended.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from kheish.core.jsonvalue import JsonObject
from kheish.state import root, store
from kheish.state.root import StateRefused, StateUnreadable
from kheish.store.files import sync
from kheish.store.lock import StateLock
from kheish.store.snapshot import open_for_reading

BACKUP_SUFFIX = ".vacuum-bak"


def vacuum(state_root: Path) -> JsonObject:
    """Rewrite the database compactly; the file as it was stays beside it.

    Raises:
        StateRefused: an earlier backup is still there, there is no database, or the copy differs; nothing was changed.
        StateRootLocked: a daemon runs on this state root.
        StateUnreadable: the database cannot be read.
    """
    path, backup = state_root / root.DATABASE, state_root / f"{root.DATABASE}{BACKUP_SUFFIX}"
    with _locked(state_root):
        if backup.exists():
            raise StateRefused(f"{backup} of an earlier vacuum is still there. Delete it when you no longer need it.")
        before = path.stat().st_size
        _rewrite(path, backup)
        removed = _remove_unfinished(state_root)
    return {
        "path": str(path),
        "backup_path": str(backup),
        "bytes_before": before,
        "bytes_after": path.stat().st_size,
        "unfinished_files_removed": removed,
    }


def vacuum_session(state_root: Path, session_id: str) -> JsonObject:
    """`vacuum`, reported for one session.

    Raises:
        StateRefused: there is no such session; and as for `vacuum`.
    """
    with root.reading(state_root) as connection:
        if store.session(connection, session_id) is None:
            raise StateRefused(f"There is no session {session_id!r}.")
    report = vacuum(state_root)
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


@contextmanager
def _locked(state_root: Path) -> Iterator[None]:
    if not (state_root / root.DATABASE).is_file():
        raise StateRefused(
            f"There is no state below {state_root}: {root.DATABASE} is missing. Name it with --state-root."
        )
    lock = StateLock(state_root)
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _rewrite(path: Path, backup: Path) -> None:
    compact = path.with_name(f".{path.name}.vacuum")
    compact.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            # Into the file itself: the log beside it must not outlive the swap.
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.execute("VACUUM INTO ?", (str(compact),))
        with closing(sqlite3.connect(compact, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
        compact.chmod(0o600)
        if content_digest(compact) != content_digest(path):
            raise StateRefused(f"The compact copy of {path} differs from it; nothing was changed.")
        for leftover in (f"{path}-wal", f"{path}-shm"):
            Path(leftover).unlink(missing_ok=True)
        sync(compact)
        backup.hardlink_to(path)
        compact.rename(path)
        sync(path.parent)
    except sqlite3.Error as error:
        raise StateUnreadable(
            f"The database {path} cannot be read: {error}. Look with `kheish-daemon state verify`."
        ) from error
    except OSError as error:
        raise StateRefused(f"{path} could not be rewritten: {error.strerror}. It is as before.") from error
    finally:
        for name in (compact, Path(f"{compact}-wal"), Path(f"{compact}-shm")):
            name.unlink(missing_ok=True)


def content_digest(path: Path) -> str:
    """A digest of every row of every table, in one order, whatever the pages look like."""
    found = hashlib.sha256()
    with closing(open_for_reading(path)) as connection:
        for name in [*store.tables(connection), "sqlite_sequence"]:
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
