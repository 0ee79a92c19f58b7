"""state backup: a copy of the state root that can be verified and restored, taken while the daemon works.

The manifest is written last and names everything: a folder without one is a backup that is not finished.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson

from kheish.core.clock import SystemClock
from kheish.core.jsonvalue import JsonObject, decode_object
from kheish.core.values import value_class
from kheish.state import root, store
from kheish.state.root import StateRefused, StateUnreadable
from kheish.store.files import private_folder, sync
from kheish.store.snapshot import PARTIAL, copy_database

MANIFEST = "manifest.json"
_MARK = ".kheish-backup"
"""In every folder this command began to fill, so that it may go on there."""
_FORMAT = "kheish-backup"
_VERSION = 1
Progress = Callable[[str, int, int], None]
"""Called with what is copied, how much of it is done and how much there is."""

_LEFT_OUT = frozenset({"daemon.lock", "route-inventory.json", root.BACKUPS, root.BLOBS, root.MASTER_KEY})


@value_class(frozen=True, kw_only=True, slots=True)
class Copied:
    """One file of a backup."""

    path: str
    """Below the state root."""
    stored_as: str
    """Below the backup's folder."""
    sha256: str
    bytes: int

    def to_json(self) -> JsonObject:
        return {"path": self.path, "stored_as": self.stored_as, "sha256": self.sha256, "bytes": self.bytes}


def backup(state_root: Path, target: Path, progress: Progress = lambda what, done, total: None) -> JsonObject:
    """Copy the state to ``target``; called again it goes on, or brings the copy up to date.

    Raises:
        StateRefused: ``target`` holds something else, lies inside the state root, or cannot be written.
        StateUnreadable: the database cannot be read.
        DatabaseMoved: daemons started again and again meanwhile.
    """
    root.require_undamaged(state_root / root.DATABASE)
    _prepare(state_root, target)
    try:
        files, skipped = _copy_all(state_root, target, progress)
        _finish(target, files)
    except OSError as error:
        raise StateRefused(
            f"The backup in {target} is not finished: {error.strerror}. Run the same command again to go on."
        ) from error
    return {
        "path": str(target),
        "files": len(files),
        "bytes": sum(file.bytes for file in files),
        "blobs_already_there": skipped,
        "master_key_included": False,
        "audit_signing_key_included": any(file.path == root.AUDIT_KEY for file in files),
    }


def read_manifest(folder: Path) -> list[Copied]:
    """What a finished backup holds.

    Raises:
        StateRefused: the folder has no manifest that this release can read.
    """
    try:
        document = decode_object((folder / MANIFEST).read_bytes())
        if document["format"] != _FORMAT or document["version"] != _VERSION:
            raise ValueError("another format")
        rows = document["files"]
        if not isinstance(rows, list):
            raise ValueError("no files")
        return [_copied(row) for row in rows]
    except FileNotFoundError:
        raise StateRefused(f"{folder} holds no finished backup: {MANIFEST} is missing.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StateRefused(f"The manifest of {folder} cannot be read ({type(error).__name__}).") from None


def _copied(row: object) -> Copied:
    if not isinstance(row, dict):
        raise ValueError("a file is no object")
    found = Copied(path=row["path"], stored_as=row["stored_as"], sha256=row["sha256"], bytes=row["bytes"])
    for place in (found.path, found.stored_as):
        # A manifest from elsewhere must not name files outside of the two folders.
        if Path(place).is_absolute() or ".." in Path(place).parts:
            raise ValueError("a path leaves its folder")
    return found


def digest(path: Path) -> str:
    """SHA-256 of a file, as lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _prepare(state_root: Path, target: Path) -> None:
    inside = target.absolute().is_relative_to(state_root.absolute())
    if inside and not target.absolute().is_relative_to((state_root / root.BACKUPS).absolute()):
        raise StateRefused(f"{target} lies inside the state root. Choose a folder elsewhere, best on another disk.")
    try:
        private_folder(target)
        if not (target / _MARK).exists():
            # A manifest of ours vouches for the folder too; one of somebody else does not.
            if any(target.iterdir()) and not _is_backup(target):
                raise StateRefused(f"{target} is not empty and is no backup. Choose another folder.")
            (target / _MARK).touch(mode=0o600)
    except OSError as error:
        raise StateRefused(f"{target} cannot be used: {error.strerror}.") from error


def _is_backup(target: Path) -> bool:
    try:
        read_manifest(target)
    except StateRefused:
        return False
    return True


def _copy_all(state_root: Path, target: Path, progress: Progress) -> tuple[list[Copied], int]:
    # The database first: a blob is there before any row names it, so those that come later than this one are no loss.
    files = [_copy_rows(state_root, target, progress)]
    files += filter(None, (_copy_file(state_root, target, path) for path in _other_files(state_root)))
    blobs = [path for path in root.blob_files(state_root) if not path.name.startswith(".")]
    skipped = 0
    for number, path in enumerate(blobs, start=1):
        skipped += not _copy_blob(path, target / path.relative_to(state_root))
        files.append(_described(target, str(path.relative_to(state_root))))
        progress("blobs", number, len(blobs))
    return files, skipped


def _other_files(state_root: Path) -> Iterator[Path]:
    for top in sorted(state_root.iterdir()):
        if top.name in _LEFT_OUT or top.name.startswith(root.DATABASE):
            continue
        for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
            # A name with a dot is a file somebody is writing, to be renamed when it is whole.
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(state_root).parts):
                yield path


def _copy_blob(source: Path, target: Path) -> bool:
    """Copy unless it is there already; a blob's name is its content."""
    if target.exists() and digest(target) == target.name:
        return False
    _replace(source, target)
    return True


def _copy_file(state_root: Path, target: Path, source: Path) -> Copied | None:
    place = str(source.relative_to(state_root))
    try:
        _replace(source, target / "files" / place)
    except FileNotFoundError:
        if source.exists():
            raise
        return None  # removed since it was listed
    return _described(target, place, stored_as=f"files/{place}")


def _copy_rows(state_root: Path, target: Path, progress: Progress) -> Copied:
    # A name of its own: until the manifest is replaced, the copy before it stays whole.
    name = f"database-{SystemClock().now_ms()}-{secrets.token_hex(4)}.db"
    if not (state_root / root.DATABASE).is_file():
        raise root.no_state(state_root)
    try:
        copy_database(state_root / root.DATABASE, target / name, lambda done, total: progress("pages", done, total))
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            raise StateRefused(f"There is no room in {target}. Make some and run the same command again.") from error
        raise StateUnreadable(
            f"The database could not be copied: {error}. Look with `kheish-daemon state verify`."
        ) from error
    return _described(target, root.DATABASE, stored_as=name)


def _replace(source: Path, target: Path) -> None:
    private_folder(target.parent)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        with source.open("rb") as reader, os.fdopen(_created(temporary), "wb") as writer:
            shutil.copyfileobj(reader, writer)
            writer.flush()
            os.fsync(writer.fileno())
        temporary.rename(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(target.parent)


def _created(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def _described(target: Path, path: str, *, stored_as: str | None = None) -> Copied:
    place = stored_as or path
    return Copied(path=path, stored_as=place, sha256=digest(target / place), bytes=(target / place).stat().st_size)


def _finish(target: Path, files: list[Copied]) -> None:
    [database] = [file.stored_as for file in files if file.path == root.DATABASE]
    with root.reading_file(target / database) as connection:
        schema = [name for name, _ in store.migrations(connection).values()]
    document = {
        "format": _FORMAT,
        "version": _VERSION,
        "created_at_ms": SystemClock().now_ms(),
        "schema": schema,
        "files": [file.to_json() for file in files],
    }
    fresh = target / f".{MANIFEST}.{secrets.token_hex(4)}{PARTIAL}"
    with os.fdopen(_created(fresh), "wb") as file:
        file.write(orjson.dumps(document, option=orjson.OPT_INDENT_2))
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(target / MANIFEST)
    sync(target)
    _tidy(target, {file.stored_as for file in files})


def _tidy(target: Path, named: set[str]) -> None:
    """Remove what earlier calls left and the manifest no longer names; never what this command did not write."""
    ours = [*target.glob("database-*.db"), *target.glob(f".*{PARTIAL}")]
    ours += [path for folder in (root.BLOBS, "files") for path in sorted((target / folder).rglob("*"))]
    for path in ours:
        if path.is_file() and str(path.relative_to(target)) not in named:
            path.unlink()
