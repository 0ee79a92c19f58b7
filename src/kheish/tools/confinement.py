"""The workspace boundary: where a path leads, and opening it without ever following a link.

Two steps. `Workspace.resolve` says which place inside the root a path means, symlinks of existing parts resolved.
Every open then walks from the root's handle one directory at a time and refuses links at each step, so a link put
there after the check leads nowhere.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import accumulate
from pathlib import Path

from kheish.core.values import value_class
from kheish.tools.failures import ToolFailure
from kheish.tools.protocol import ToolContext

MAX_PATH_BYTES = 4096
MAX_NAME_BYTES = 255
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Not blocking: opening a pipe that nobody writes to must not hang.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


@value_class(frozen=True, kw_only=True, slots=True, order=True)
class Place:
    """A place inside the workspace, free of links and dots. It need not exist."""

    root: Path
    parts: tuple[str, ...]

    @property
    def absolute(self) -> str:
        return str(self.root.joinpath(*self.parts))

    @property
    def relative(self) -> str:
        """Workspace-relative; `.` is the root."""
        return "/".join(self.parts) or "."


class Workspace:
    """One session's files. Blocking: call it off the event loop. Every refusal is a `ToolFailure`."""

    def __init__(self, root: Path, forbidden: Sequence[Path] = ()) -> None:
        """Both ``root`` and what is ``forbidden`` below it are free of links."""
        self.root = root
        self._root = str(root)
        self._forbidden = tuple(str(path) for path in forbidden)
        self._forbidden_ids = frozenset(_identities(forbidden))

    @classmethod
    def of(cls, context: ToolContext) -> Workspace:
        return cls(context.workspace_root, context.forbidden_roots)

    def resolve(self, path: str) -> Place:
        """Say where ``path`` leads, links resolved up to the last part that exists."""
        lexical = self._lexical(path)
        return self._inside(lexical if self._free_of_links(lexical) else os.path.realpath(lexical), path)

    def resolve_target(self, path: str) -> Place:
        """Say where a write to ``path`` would land: links in its folders are resolved, the last name is kept."""
        lexical = self._lexical(path)
        folder, name = os.path.split(lexical)
        if lexical == self._root or path.rpartition("/")[2] in ("", ".", ".."):
            raise ToolFailure(f"the path names a directory: {_shown(path)}")
        return self._inside(os.path.join(os.path.realpath(folder), name), path)

    def holds(self, parts: Sequence[str]) -> bool:
        """Say whether a path found below the root, free of links, belongs to the workspace."""
        return not self._is_forbidden(os.path.join(self._root, *parts))

    @contextmanager
    def directory(self, parts: Sequence[str], *, create: bool = False) -> Iterator[int]:
        """Open a directory and give its handle; with ``create`` missing ones are made, durably."""
        with refusals(Place(root=self.root, parts=())):
            handle = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._check_identity(handle, parts)
            for depth, name in enumerate(parts):
                with refusals(Place(root=self.root, parts=tuple(parts[: depth + 1]))):
                    below = _enter(handle, name, create=create)
                os.close(handle)
                handle = below
                self._check_identity(handle, parts)
            yield handle
        finally:
            os.close(handle)

    @contextmanager
    def file(self, place: Place) -> Iterator[int]:
        """Open an existing regular file for reading and give its handle."""
        if not place.parts:
            raise ToolFailure("is a directory: .")
        with self.directory(place.parts[:-1]) as folder:
            with refusals(place):
                handle = os.open(place.parts[-1], _READ, dir_fd=folder)
            try:
                mode = os.fstat(handle).st_mode
                if stat.S_ISDIR(mode):
                    raise ToolFailure(f"is a directory: {place.relative}")
                if not stat.S_ISREG(mode):
                    raise ToolFailure(f"not a regular file: {place.relative}")
                yield handle
            finally:
                os.close(handle)

    def _check_identity(self, handle: int, parts: Sequence[str]) -> None:
        """A forbidden directory may have another name, and the root may have become a link to one."""
        if _identity(os.fstat(handle)) in self._forbidden_ids:
            raise _outside("/".join(parts))

    def _lexical(self, path: str) -> str:
        _check_names(path)
        climbed: list[str] = []
        for name in path.split("/"):
            if name == ".." and not climbed and not path.startswith("/"):
                raise _outside(path)
            if name == "..":
                del climbed[-1:]
            elif name not in ("", "."):
                climbed.append(name)
        return os.path.join("/" if path.startswith("/") else self._root, *climbed)

    def _free_of_links(self, path: str) -> bool:
        """Neither the root nor a part of ``path`` that exists is a link. False also for what is not plainly below."""
        below = _below(path, self._root)
        if below is None:
            return False
        for place in accumulate((self._root, *below), os.path.join):
            try:
                mode = os.lstat(place).st_mode
            except FileNotFoundError:
                return True
            except OSError:
                return False
            if stat.S_ISLNK(mode):
                return False
        return True

    def _inside(self, canonical: str, path: str) -> Place:
        below = _below(canonical, self._root)
        if below is None or self._is_forbidden(canonical):
            raise _outside(path)
        return Place(root=self.root, parts=below)

    def _is_forbidden(self, canonical: str) -> bool:
        return any(_below(canonical, root) is not None for root in self._forbidden)


def handle_path(handle: int) -> str:
    """Return a path by which a child process can change into an open directory."""
    return f"/proc/self/fd/{handle}" if os.path.isdir("/proc/self/fd") else f"/dev/fd/{handle}"


def _below(path: str, root: str) -> tuple[str, ...] | None:
    """The parts of ``path`` after ``root``, none for the root itself; None outside of it. Both without dots."""
    if path == root:
        return ()
    start = root if root.endswith("/") else f"{root}/"
    return tuple(path[len(start) :].split("/")) if path.startswith(start) else None


def _check_names(path: str) -> None:
    if not path.strip():
        raise ToolFailure("the path is empty")
    if "\0" in path:
        raise ToolFailure("the path contains a NUL byte")
    try:
        names = [len(name.encode()) for name in path.split("/")]
    except UnicodeEncodeError:
        raise ToolFailure("the path is not valid Unicode") from None
    if max(names) > MAX_NAME_BYTES or sum(names) + len(names) > MAX_PATH_BYTES:
        raise ToolFailure(f"the path is too long: {_shown(path)}")


def _enter(handle: int, name: str, *, create: bool) -> int:
    try:
        return os.open(name, _DIRECTORY, dir_fd=handle)
    except FileNotFoundError:
        if not create:
            raise
    try:
        os.mkdir(name, dir_fd=handle)
        os.fsync(handle)
    except FileExistsError:
        pass  # someone else made it meanwhile
    return os.open(name, _DIRECTORY, dir_fd=handle)


@contextmanager
def refusals(place: Place) -> Iterator[None]:
    """Say the system's refusal in terms of the workspace."""
    try:
        yield
    except OSError as error:
        raise ToolFailure(f"{_reason(error)}: {place.relative}") from error


def _reason(error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "refusing to follow a symbolic link"
    if error.errno == errno.ENOTDIR:
        return "not a directory"
    return (os.strerror(error.errno) if error.errno else "cannot be opened").lower()


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _identities(paths: Iterable[Path]) -> Iterator[tuple[int, int]]:
    for path in paths:
        with suppress(FileNotFoundError, NotADirectoryError):
            yield _identity(os.stat(path))


def _outside(path: str) -> ToolFailure:
    return ToolFailure(f"the path is outside the workspace: {_shown(path)}")


def _shown(path: str) -> str:
    return path if len(path) <= 200 else f"{path[:200]}…"
