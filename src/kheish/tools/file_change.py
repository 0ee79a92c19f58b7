"""Changing files: planned first, then written whole or not at all, and recognisable after a restart."""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import cast

from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.core.values import value_class
from kheish.tools.confinement import Place, Workspace, refusals
from kheish.tools.failures import ToolFailure
from kheish.tools.file_locks import FileLocks, folders_locked
from kheish.tools.offload import Stop, off_loop
from kheish.tools.protocol import Prepared, ToolCall, ToolContext, ToolDescriptor, ToolOutcome

_CHUNK = 1 << 20
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
NOT_WRITTEN = "The daemon restarted before this call wrote anything; nothing was changed, and it may be repeated."


@value_class(frozen=True, kw_only=True, slots=True)
class FileState:
    """A regular file as it is now."""

    sha256: str
    mode: int
    content: bytes | None = None
    """Present when it was asked for."""


@value_class(frozen=True, kw_only=True, slots=True)
class FileChange:
    """What one file is and what it shall be. ``before`` is None for a file that does not exist."""

    place: Place
    before: FileState | None
    content: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


@value_class(frozen=True, kw_only=True, slots=True)
class ChangeSet:
    """A call's whole effect, and the output it gives when the effect has taken place."""

    changes: tuple[FileChange, ...]
    output: JsonObject

    def facts(self) -> JsonObject:
        """What is recorded with the intent: enough to recognise the effect afterwards."""
        files: list[JsonValue] = [
            {
                "path": change.place.relative,
                "before": None if change.before is None else change.before.sha256,
                "after": change.sha256,
            }
            for change in self.changes
        ]
        return {"files": files, "output": self.output}


Plan = Callable[[Workspace, Stop], ChangeSet]


class FileChangingTool(ABC):
    """Base of the tools that write files. A subclass says what a call would change; the rest is here."""

    descriptor: ToolDescriptor

    def __init__(self, locks: FileLocks) -> None:
        self._locks = locks

    @abstractmethod
    def plan(self, fields: JsonObject, workspace: Workspace, stop: Stop) -> ChangeSet:
        """Work out the change without making it. Blocking.

        Raises:
            ToolFailure: the call cannot be done.
        """

    async def prepare(self, call: ToolCall, context: ToolContext) -> Prepared:
        def plan(workspace: Workspace, stop: Stop) -> ChangeSet:
            return self.plan(call.input, workspace, stop)

        workspace = Workspace.of(context)
        try:
            planned = await off_loop(lambda stop: plan(workspace, stop))
        except ToolFailure as failure:
            return _Refused(failure.outcome(call.name))
        return _Change(call.name, plan, planned, workspace, self._locks)

    async def settle(self, call: ToolCall, facts: JsonObject, context: ToolContext) -> ToolOutcome | None:
        """Compare each file with what it was and what it should have become."""
        files = cast("list[JsonObject]", facts["files"])
        workspace = Workspace.of(context)
        temporary = str(facts["temporary"]) if files else ""
        try:
            now = await off_loop(
                lambda stop: [_left_behind(workspace, str(file["path"]), temporary, stop) for file in files]
            )
        except ToolFailure:
            return None  # something else than a file is there now
        if files and all(digest == file["after"] for digest, file in zip(now, files, strict=True)):
            return _done(cast("JsonObject", facts["output"]), [str(file["path"]) for file in files])
        if all(digest == file["before"] for digest, file in zip(now, files, strict=True)):
            return ToolFailure(NOT_WRITTEN, reason="daemon_restart").outcome(call.name)
        return None


class _Refused:
    """A call whose plan failed: recorded as changing no file, so that settling it is simple."""

    def __init__(self, outcome: ToolOutcome) -> None:
        self.facts: JsonObject = {"files": []}
        self._outcome = outcome

    async def run(self) -> ToolOutcome:
        return self._outcome

    async def abandon(self) -> None:
        return None


class _Change:
    def __init__(self, tool: str, plan: Plan, planned: ChangeSet, workspace: Workspace, locks: FileLocks) -> None:
        self._temporary = f".{secrets.token_hex(8)}.tmp"
        # Its name is recorded so that what a crash leaves can be cleared away.
        self.facts: JsonObject = {**planned.facts(), "temporary": self._temporary}
        self._tool = tool
        self._plan = plan
        self._places = [change.place for change in planned.changes]
        self._workspace = workspace
        self._locks = locks

    async def run(self) -> ToolOutcome:
        try:
            async with self._locks.holding(self._places):
                done = await off_loop(self._write)
        except ToolFailure as failure:
            return failure.outcome(self._tool)
        return _done(done.output, [change.place.relative for change in done.changes])

    async def abandon(self) -> None:
        return None

    def _write(self, stop: Stop) -> ChangeSet:
        with folders_locked(self._workspace, self._places, stop):
            # Planned again: another call may have changed a file since, and must not be overwritten unseen.
            current = self._plan(self._workspace, stop)
            stop.check()
            commit(self._workspace, current.changes, self._temporary)
        return current


def read_state(workspace: Workspace, place: Place, stop: Stop, *, max_bytes: int | None = None) -> FileState | None:
    """Return the regular file at ``place``, or None when nothing is there; with ``max_bytes`` its content as well.

    Raises:
        ToolFailure: a link, a directory or something else is there, or the file is larger than ``max_bytes``.
    """
    try:
        with workspace.file(place) as handle:
            status = os.fstat(handle)
            if max_bytes is not None and status.st_size > max_bytes:
                raise ToolFailure(f"the file is larger than {max_bytes} bytes: {place.relative}")
            hashed = hashlib.sha256()
            kept: list[bytes] = []
            with refusals(place):
                while chunk := os.read(handle, _CHUNK):
                    stop.check()
                    hashed.update(chunk)
                    if max_bytes is not None:
                        kept.append(chunk)
    except ToolFailure as failure:
        if isinstance(failure.__cause__, FileNotFoundError):
            return None
        raise
    content = None if max_bytes is None else b"".join(kept)
    return FileState(sha256=hashed.hexdigest(), mode=stat.S_IMODE(status.st_mode) & 0o777, content=content)


def check_expected(expected: str | None, before: FileState | None, place: Place) -> None:
    """Refuse when the caller named the file's content and it is another.

    Raises:
        ToolFailure: the digest differs, or there is no file.
    """
    if expected is None:
        return
    if before is None:
        raise ToolFailure(f"expected_sha256 was given, but the file does not exist: {place.relative}")
    if before.sha256 != expected.strip().lower():
        raise ToolFailure(
            f"the file is not the expected one, read it again: {place.relative}", actual_sha256=before.sha256
        )


def commit(workspace: Workspace, changes: Sequence[FileChange], temporary: str) -> None:
    """Write every file by way of one named ``temporary``; when one fails, put back those written before it.

    Raises:
        ToolFailure: a file could not be written. Its facts name files that could not be put back, if any.
    """
    written: list[FileChange] = []
    try:
        for change in changes:
            mode = None if change.before is None else change.before.mode
            replace_file(workspace, change.place, change.content, mode, temporary)
            written.append(change)
    except ToolFailure as failure:
        stuck = [change.place.relative for change in reversed(written) if not _put_back(workspace, change, temporary)]
        if stuck:
            raise ToolFailure(failure.message, **failure.facts, left_changed=list[JsonValue](stuck)) from failure
        raise


def replace_file(workspace: Workspace, place: Place, content: bytes, mode: int | None, temporary: str) -> None:
    """Make ``content`` the file at ``place``, atomically and durably. ``mode`` None means a new file.

    Raises:
        ToolFailure: the folder is not there, or the system refused.
    """
    with (
        workspace.directory(place.parts[:-1]) as folder,
        refusals(place),
        _new_file(folder, temporary, mode) as (handle, final_mode),
    ):
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(handle, rest) :]
        os.fchmod(handle, final_mode)
        os.fsync(handle)
        os.rename(temporary, place.parts[-1], src_dir_fd=folder, dst_dir_fd=folder)
        os.fsync(folder)


@contextmanager
def _new_file(folder: int, name: str, mode: int | None) -> Iterator[tuple[int, int]]:
    """Give a new file only we can read and the mode it shall have; in the end it is gone unless it was renamed."""
    with ExitStack() as undo:
        # A new file is born with the mode the umask gives it, to learn that mode, and closed to others while empty.
        handle = os.open(name, _NEW_FILE, 0o666 if mode is None else 0o600, dir_fd=folder)
        undo.callback(os.close, handle)
        undo.callback(_remove, name, folder)
        final_mode = stat.S_IMODE(os.fstat(handle).st_mode) if mode is None else mode
        os.fchmod(handle, 0o600)
        yield handle, final_mode


def _remove(name: str, folder: int) -> None:
    # Normally it is gone already: it was renamed.
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


def _put_back(workspace: Workspace, change: FileChange, temporary: str) -> bool:
    if change.before is None or change.before.content is None:
        return False
    try:
        replace_file(workspace, change.place, change.before.content, change.before.mode, temporary)
    except ToolFailure:
        return False
    return True


def _left_behind(workspace: Workspace, path: str, temporary: str, stop: Stop) -> str | None:
    """Return the digest of what is at ``path`` now, after clearing away a temporary file."""
    place = workspace.resolve_target(path)
    with suppress(ToolFailure), workspace.directory(place.parts[:-1]) as folder:
        _remove(temporary, folder)
    state = read_state(workspace, place, stop)
    return None if state is None else state.sha256


def _done(output: JsonObject, paths: Sequence[str]) -> ToolOutcome:
    updates = tuple[JsonObject, ...]({"type": "file_modified", "path": path} for path in paths)
    return ToolOutcome(output=output, context_updates=updates)
