"""state restore: a state root from a backup, whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterable
from contextlib import nullcontext, suppress
from pathlib import Path

from kheish.core.clock import SystemClock
from kheish.core.jsonvalue import JsonObject
from kheish.state import root
from kheish.state.backup import Copied, Progress, digest, read_manifest
from kheish.state.root import StateRefused
from kheish.store.files import private_folder, sync

_KEPT = frozenset({root.BACKUPS, "lost+found"})
"""Of a folder that stays where it is; neither is in a backup."""


def restore(
    folder: Path, state_root: Path, *, replace: bool = False, progress: Progress = lambda what, done, total: None
) -> JsonObject:
    """Make ``state_root`` what the backup in ``folder`` holds.

    With ``replace`` a state that is there is moved aside, never deleted.

    Raises:
        StateRefused: the backup is damaged or unfinished, or there is a state already; nothing was changed.
        StateRootLocked: a daemon runs on ``state_root``.
    """
    state_root = state_root.resolve()
    files = read_manifest(folder)
    _check(folder, files, progress)
    stays = _stays(state_root)
    occupied = state_root.is_dir() and any(not stays or path.name not in _KEPT for path in state_root.iterdir())
    if occupied and not replace:
        raise StateRefused(f"{state_root} is not empty. Give another folder, or --replace to move what is there aside.")
    with root.locked(state_root) if occupied or stays else nullcontext():
        put_in_place = _fill if stays else _put_in_place
        aside = put_in_place(folder, files, state_root, progress, occupied=occupied)
    restored = sum(file.bytes for file in files)
    report: JsonObject = {"state_root": str(state_root), "files": len(files), "bytes": restored}
    if aside is not None:
        report["moved_aside_to"] = str(aside)
    return report


def _stays(state_root: Path) -> bool:
    """Whether the folder itself cannot be exchanged: a volume, or one in a folder of somebody else."""
    return state_root.is_dir() and (state_root.is_mount() or not os.access(state_root.parent, os.W_OK))


def _check(folder: Path, files: list[Copied], progress: Progress) -> None:
    for number, file in enumerate(files, start=1):
        try:
            sound = digest(folder / file.stored_as) == file.sha256
        except OSError as error:
            raise StateRefused(f"The backup {folder} is damaged: {file.stored_as}: {error.strerror}.") from error
        if not sound:
            raise StateRefused(f"The backup {folder} is damaged: {file.stored_as} is not what the manifest says.")
        progress("checked", number, len(files))
    if not any(file.path == root.DATABASE for file in files):
        raise StateRefused(f"The backup {folder} holds no {root.DATABASE}.")


def _put_in_place(
    folder: Path, files: list[Copied], state_root: Path, progress: Progress, *, occupied: bool
) -> Path | None:
    fresh = state_root.with_name(f".{state_root.name}.{secrets.token_hex(4)}{root.RESTORING}")
    try:
        _lay_out(folder, files, fresh, progress)
        return _swap(fresh, state_root, occupied=occupied)
    except OSError as error:
        raise StateRefused(f"{state_root} could not be restored: {error.strerror}.") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _lay_out(folder: Path, files: list[Copied], fresh: Path, progress: Progress) -> None:
    private_folder(fresh)
    for number, file in enumerate(files, start=1):
        target = fresh / file.path
        private_folder(target.parent)
        shutil.copyfile(folder / file.stored_as, target)
        target.chmod(0o600)
        sync(target)
        progress("restored", number, len(files))
    for place in (*(path for path in fresh.rglob("*") if path.is_dir()), fresh):
        sync(place)


def _swap(fresh: Path, state_root: Path, *, occupied: bool) -> Path | None:
    aside = None
    if occupied:
        aside = state_root.with_name(f"{state_root.name}.before-restore-{SystemClock().now_ms()}")
        state_root.rename(aside)
    elif state_root.is_dir():
        state_root.rmdir()
    try:
        fresh.rename(state_root)
    except OSError:
        if aside is not None:
            aside.rename(state_root)
        raise
    sync(state_root.parent)
    return aside


def _fill(folder: Path, files: list[Copied], state_root: Path, progress: Progress, *, occupied: bool) -> Path | None:
    """Exchange what is in a folder that stays; until that is done, no daemon starts on it."""
    backups = state_root / root.BACKUPS
    fresh = backups / f".{state_root.name}.{secrets.token_hex(4)}{root.RESTORING}"
    aside = backups / f"{state_root.name}.before-restore-{SystemClock().now_ms()}"
    try:
        private_folder(aside)
        _lay_out(folder, files, fresh, progress)
        _exchange(fresh, state_root, aside if occupied else None)
    except OSError as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise StateRefused(f"{state_root} could not be restored: {error.strerror}.") from error
    finally:
        with suppress(OSError):
            aside.rmdir()  # unless something is in it
    # Those of restores that were killed, too: what they began is complete or aside now.
    for left in (path for path in backups.iterdir() if path.name.endswith(root.RESTORING)):
        shutil.rmtree(left, ignore_errors=True)
    sync(backups)
    return aside if occupied else None


def _exchange(fresh: Path, state_root: Path, aside: Path | None) -> None:
    if aside is not None:
        _move((path for path in state_root.iterdir() if path.name not in _KEPT), aside)
        sync(aside)
    try:
        _move(fresh.iterdir(), state_root)
    except OSError:
        if aside is not None:
            _move(aside.iterdir(), state_root)
        raise
    sync(state_root)


def _move(entries: Iterable[Path], target: Path) -> None:
    """Move all or none."""
    moved: list[Path] = []
    try:
        for entry in list(entries):
            entry.rename(target / entry.name)
            moved.append(entry)
    except OSError:
        for entry in moved:
            (target / entry.name).rename(entry)
        raise
