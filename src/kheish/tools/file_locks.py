"""One writer per file: a queue inside the process, an advisory lock between processes."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from weakref import WeakValueDictionary

from kheish.tools.confinement import Place, Workspace
from kheish.tools.offload import Stop

POLL_SECONDS = 0.02
"""How often a lock held by another process is tried again; the tool's timeout bounds the tries."""


class FileLocks:
    """Locks by canonical path, shared by every tool that writes."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def holding(self, places: Iterable[Place]) -> AsyncIterator[None]:
        """Hold every file's lock, taken in sorted order so that two calls cannot block each other."""
        async with AsyncExitStack() as held:
            for path in sorted({place.absolute for place in places}):
                lock = self._locks.get(path)
                if lock is None:
                    lock = self._locks[path] = asyncio.Lock()
                await held.enter_async_context(lock)
            yield


@contextmanager
def folders_locked(workspace: Workspace, places: Iterable[Place], stop: Stop) -> Iterator[None]:
    """Hold an advisory lock on the folder of each file, against writers of other processes; makes missing folders.

    The folder and not the file is locked: a rename replaces the file, and a lock on it would go with the old one.
    """
    with ExitStack() as held:
        taken: set[tuple[int, int]] = set()
        for place in sorted(set(places)):
            handle = held.enter_context(workspace.directory(place.parts[:-1], create=True))
            status = os.fstat(handle)
            if (status.st_dev, status.st_ino) not in taken:
                _lock(handle, stop)
                taken.add((status.st_dev, status.st_ino))
        yield


def _lock(handle: int, stop: Stop) -> None:
    while True:
        stop.check()
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            stop.pause(POLL_SECONDS)
        except OSError:
            return  # a file system without locks: the queue inside the process is all there is
