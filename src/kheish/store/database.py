"""The `Database` protocol and its SQLite implementation: one writer thread with group commit, readers beside it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import structlog

from kheish.core.problems import StoreUnavailable, StoreUnreadable
from kheish.store.commit import Commit
from kheish.store.distribution import Distribution
from kheish.store.events import Change, EventLog, FeedEvent
from kheish.store.refusals import may_pass, refusal
from kheish.store.rows import Statement
from kheish.store.statistics import StoreFailure, WriteStatistics

T = TypeVar("T")

log = structlog.get_logger(__name__)

_MAX_GROUP = 256
"""Units in one commit: bounds how long a caller waits behind others."""
_READERS = 2
"""More readers only contend for the interpreter."""
_PAGE_BYTES = 2048
"""Of a new database. A commit changes a few rows on each of a dozen pages, and the log takes every page as a whole."""
_LOG_BYTES = 16 * 1024 * 1024
"""In the log before they move to the database: a page that many commits change is moved once."""
_COMMIT_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_COMMIT_UNITS = (1, 2, 4, 8, 16, 32, 64, 128, _MAX_GROUP)
_NO_TEXT = "Could not decode to UTF-8"


class Transaction:
    """One unit of work inside a group commit."""

    __slots__ = ("_commit", "fresh", "kept", "published")

    def __init__(self, commit: Commit) -> None:
        self._commit = commit
        self.published: list[Change] = []
        """Stored with the commit; reaches subscribers once it is durable."""
        self.kept: list[Callable[[], None]] = []
        """Called in the writer's thread once the commit is durable: for what is remembered of rows that are there."""
        self.fresh = True
        """What is remembered of the rows of this unit's subject is as they are."""

    @property
    def connection(self) -> sqlite3.Connection:
        """For what cannot wait. It sees everything that units before wrote, and this one so far."""
        return self._commit.write_waiting()

    @property
    def failures(self) -> int:
        """Commits that failed so far: each may have been written all the same."""
        return self._commit.failures

    @property
    def data_version(self) -> int:
        """Changes when another connection than the writer's changed the database."""
        return self._commit.data_version

    def begin(self, subject: str) -> None:
        """Say whose rows this unit writes before it adds any."""
        self.fresh = self._commit.first_of(subject)

    def add(self, statement: Statement, rows: Sequence[tuple[object, ...]]) -> None:
        """Write ``rows`` in this commit, together with those of other units.

        Rows of one statement keep their order; those of different statements, of the same subject, must not need one.
        """
        self._commit.waiting[statement] += rows


class Database(Protocol):
    """Durable rows. A `write` that returned has its data on disk."""

    async def write(self, unit: Callable[[Transaction], T], *, meanwhile: Callable[[], None] | None = None) -> T:
        """Run ``unit`` in the next commit. It is run again when another unit of that commit refuses.

        ``meanwhile`` is called on the caller's event loop while the commit is on its way to the disk, unless the unit
        refused: time that is free, for what counts on nothing. The commit may still fail, and be tried again without.
        It is over before this returns or raises, but for a caller that was cancelled.

        Raises:
            StoreUnavailable: the commit failed (disk full, read-only, failing); nothing was changed, and the same
                unit may succeed later.
            StoreRejected: this unit can never be written: it contradicts what is there, or a page is damaged.
            Problem: ``unit`` raised it; nothing of it was written.
        """
        ...

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``query`` on a read-only connection off the event loop.

        Raises:
            StoreUnreadable: the store could not answer (a damaged page, a disk that fails).
            StoreUnavailable: the store is closed.
        """
        ...

    @property
    def statistics(self) -> WriteStatistics: ...


class _Unit(Generic[T]):
    __slots__ = ("error", "events", "future", "kept", "loop", "meanwhile", "published", "result", "work")

    def __init__(
        self,
        work: Callable[[Transaction], T],
        loop: asyncio.AbstractEventLoop,
        meanwhile: Callable[[], None] | None = None,
    ) -> None:
        self.work = work
        self.loop = loop
        self.meanwhile = meanwhile
        self.future: asyncio.Future[T] = loop.create_future()
        self.result: T | None = None
        self.error: BaseException | None = None
        self.published: list[Change] = []
        self.events: list[FeedEvent] = []
        self.kept: list[Callable[[], None]] = []

    def run(self, transaction: Transaction) -> None:
        """Do the work; what came of it counts once the commit is durable."""
        self.result = self.work(transaction)
        self.published, self.kept = transaction.published, transaction.kept

    def refuse(self, error: BaseException) -> None:
        """Nothing of it is in the commit."""
        self.error = self.error or error
        self.published, self.events, self.kept = [], [], []

    def settle(self) -> None:
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)  # type: ignore[arg-type]  # None only when T admits it


class SqliteDatabase:
    """SQLite in WAL mode with `synchronous=FULL`. Pass None as the path for an in-memory database."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._events: EventLog | None = None
        self._memory_name = f"file:kheish-{id(self):x}?mode=memory&cache=shared"
        self._connection = self._connect()
        self._inbox: queue.SimpleQueue[_Unit[Any] | None] = queue.SimpleQueue()
        self._readers = ThreadPoolExecutor(max_workers=_READERS, thread_name_prefix="kheish-read")
        self._local = threading.local()
        self._reader_connections: list[sqlite3.Connection] = []
        self._commits = self._units = self._failed = self._failures = 0
        self._failed_reads = 0
        self._last_failure: StoreFailure | None = None
        self._writable = True
        self._unsettled = False
        """A commit failed after its frames may have been written, and nothing was committed since."""
        self._commit_seconds = Distribution(_COMMIT_SECONDS)
        self._commit_units = Distribution(_COMMIT_UNITS)
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="kheish-write", daemon=True)
        self._thread.start()

    @property
    def statistics(self) -> WriteStatistics:
        return WriteStatistics(
            commits=self._commits,
            units=self._units,
            failed_units=self._failed,
            failed_reads=self._failed_reads,
            last_failure=self._last_failure,
            writable=self._writable,
            commit_seconds=self._commit_seconds.spread(),
            commit_units=self._commit_units.spread(),
        )

    def attach(self, events: EventLog) -> None:
        """Have ``events`` store what commits publish, and told of it afterwards."""
        self._events = events

    def run_offline(self, unit: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``unit`` on the writer's connection before the first `write` (migrations, boot checks)."""
        return unit(self._connection)

    async def write(self, unit: Callable[[Transaction], T], *, meanwhile: Callable[[], None] | None = None) -> T:
        if self._closed:
            raise _closed()
        pending: _Unit[T] = _Unit(unit, asyncio.get_running_loop(), meanwhile)
        self._inbox.put(pending)
        return await pending.future

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        if self._closed:
            raise _closed()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, self._read, query)

    def close(self) -> None:
        """Finish what is waiting, then close every connection."""
        if self._closed:
            return
        self._closed = True
        self._inbox.put(None)
        self._thread.join()
        self._refuse_late()
        self._readers.shutdown(wait=True)
        for connection in self._reader_connections:
            connection.close()
        self._connection.close()

    def _connect(self, *, read_only: bool = False) -> sqlite3.Connection:
        if self._path is None:
            connection = sqlite3.connect(self._memory_name, uri=True, check_same_thread=False, isolation_level=None)
        else:
            if not read_only:
                # Made before SQLite does it, and for its owner only; the log beside it takes the same mode. And one
                # that may not be written is found here: SQLite would open it for reading, and refuse each write later.
                os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            connection = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None)
            if not read_only:
                connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
                connection.execute("PRAGMA journal_mode = WAL")
        if not read_only:
            connection.text_factory = _readable
            # What a statement of many rows may have to take back is kept beside it, not in files of other folders.
            connection.execute("PRAGMA temp_store = MEMORY")
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        page_bytes = connection.execute("PRAGMA page_size").fetchone()[0]
        connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_BYTES // page_bytes}")
        connection.execute("PRAGMA busy_timeout = 5000")
        if read_only:
            connection.execute("PRAGMA query_only = ON")
            if self._path is None:
                connection.execute("PRAGMA read_uncommitted = ON")
        return connection

    def _read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return _answered(self._reader(), query)
        except BaseException as error:
            # A cursor left half-read, alive in the traceback, would pin this reader to an old snapshot.
            self._drop_reader()
            if not isinstance(error, sqlite3.Error):
                raise
            self._failed_reads += 1
            self._last_failure = _failure(StoreUnreadable.code, error)
            detail = f"The store could not be read ({error}). Look with `kheish-daemon state verify`."
            raise StoreUnreadable(detail) from error

    def _reader(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect(read_only=True)
            self._reader_connections.append(connection)
        return connection

    def _drop_reader(self) -> None:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is not None:
            del self._local.connection
            self._reader_connections.remove(connection)
            connection.close()

    def _serve(self) -> None:
        while (first := self._inbox.get()) is not None:
            group, last = self._gather(first)
            try:
                self._commit(group)
            # The one thread that writes: whatever breaks in it, those who wait are told and the next ones served.
            except Exception as error:
                self._roll_back()
                for unit in group:
                    unit.refuse(error)
                self._wake(group)
            if last:
                return

    def _refuse_late(self) -> None:
        """Answer whoever handed something over while the store closed."""
        with contextlib.suppress(queue.Empty):
            while (unit := self._inbox.get_nowait()) is not None:
                unit.error = _closed()
                self._wake([unit])

    def _gather(self, first: _Unit[Any]) -> tuple[list[_Unit[Any]], bool]:
        group = [first]
        while len(group) < _MAX_GROUP:
            try:
                following = self._inbox.get_nowait()
            except queue.Empty:
                return group, False
            if following is None:
                return group, True
            group.append(following)
        return group, False

    def _commit(self, group: list[_Unit[Any]]) -> None:
        begun = complete = False
        began = time.perf_counter()
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            begun = True
            self._run(group)
            self._store_events(group)
            complete = True
            _say_under_way(group)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            self._unsettled = self._unsettled or complete
            if begun and len(group) > 1:
                # One unit's trouble must not become its neighbours': each on its own.
                for unit in group:
                    unit.error = None
                    self._commit([unit])
                return
            if self._unsettled:
                self._bury()
            for unit in group:
                unit.refuse(refusal(error))
            self._writable = self._writable and begun and not complete and not may_pass(error)
        else:
            self._writable, self._unsettled = True, False
            if self._events is not None and any(unit.events for unit in group):
                self._events.stored()
            self._remember(group)
        self._account(group, time.perf_counter() - began)
        self._wake(group)

    def _bury(self) -> None:
        """Make a refused commit stay refused.

        A commit whose sync failed leaves whole, valid frames behind in the log. Nobody sees them now, but the recovery
        after a kill would. A commit of nothing, written in their place, ends the log before them, synced or not.
        """
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute("PRAGMA user_version = 0")
            self._unsettled = False

    def _account(self, group: list[_Unit[Any]], seconds: float) -> None:
        self._commit_seconds.add(seconds)
        self._commit_units.add(len(group))
        self._commits += 1
        self._units += len(group)
        for unit in group:
            if isinstance(unit.error, StoreUnavailable):
                self._failed += 1
                self._last_failure = _failure(unit.error.code, unit.error.__cause__ or unit.error)

    def _wake(self, group: list[_Unit[Any]]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[_Unit[Any]]] = {}
        for unit in group:
            by_loop.setdefault(unit.loop, []).append(unit)
        for loop, units in by_loop.items():
            _call(loop, self._deliver, units)

    def _run(self, group: list[_Unit[Any]]) -> None:
        """Run the units of a group; one that refuses leaves nothing behind and touches no other."""
        commit = Commit(self._connection, self._failures)
        try:
            for unit in group:
                unit.run(Transaction(commit))
            commit.write_waiting()
        except sqlite3.OperationalError:
            raise
        # Units seldom refuse, and savepoints for those that do not cost each of them two statements: only now.
        except Exception:
            self._connection.execute("ROLLBACK")
            self._connection.execute("BEGIN IMMEDIATE")
            commit = Commit(self._connection, self._failures)
            for unit in group:
                self._run_apart(unit, commit)

    def _remember(self, group: list[_Unit[Any]]) -> None:
        for unit in group:
            for remember in unit.kept:
                try:
                    remember()
                # What is durable is told as written, whatever breaks in remembering it.
                except Exception:
                    log.exception("store.not_remembered")

    def _store_events(self, group: list[_Unit[Any]]) -> None:
        changes = [change for unit in group for change in unit.published]
        if changes and self._events is not None:
            stored = iter(self._events.store(self._connection, changes))
            for unit in group:
                unit.events = [next(stored) for _ in unit.published]

    def _run_apart(self, unit: _Unit[Any], commit: Commit) -> None:
        self._connection.execute("SAVEPOINT unit")
        try:
            unit.run(Transaction(commit))
            commit.write_waiting()
        except sqlite3.OperationalError:
            raise
        # A unit belongs to its caller: whatever it raises goes back to that caller.
        except Exception as error:
            unit.refuse(refusal(error) if isinstance(error, sqlite3.Error) else error)
            commit.forget_waiting()
            self._connection.execute("ROLLBACK TO unit")
        self._connection.execute("RELEASE unit")

    def _roll_back(self) -> None:
        self._failures += 1
        # A store too damaged to roll back is reported by the write that found it; the thread must live on.
        with contextlib.suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def _deliver(self, units: list[_Unit[Any]]) -> None:
        try:
            events = [event for unit in units for event in unit.events]
            if events and self._events is not None:
                self._events.publish(events)
        finally:
            for unit in units:
                unit.settle()


def _say_under_way(group: list[_Unit[Any]]) -> None:
    for unit in group:
        if unit.meanwhile is not None and unit.error is None:
            meanwhile, unit.meanwhile = unit.meanwhile, None
            _call(unit.loop, meanwhile)


def _call(loop: asyncio.AbstractEventLoop, callback: Callable[..., None], *arguments: object) -> None:
    # A loop that was closed has nobody left who waits.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback, *arguments)


@contextlib.contextmanager
def one_snapshot(reader: sqlite3.Connection) -> Iterator[None]:
    """The queries inside all see the same commits."""
    reader.execute("BEGIN")
    try:
        yield
    finally:
        reader.execute("COMMIT")


def _answered(connection: sqlite3.Connection, query: Callable[[sqlite3.Connection], T]) -> T:
    try:
        return query(connection)
    except sqlite3.OperationalError as error:
        if not str(error).startswith(_NO_TEXT):
            raise
    # One damaged text must not hide all the others. Not from the start: this makes each text slower.
    connection.text_factory = _readable
    try:
        return query(connection)
    finally:
        connection.text_factory = str


def _readable(text: bytes) -> str:
    return text.decode(errors="replace")


def _failure(code: str, error: BaseException) -> StoreFailure:
    return StoreFailure(code=code, message=str(error), at_ms=time.time_ns() // 1_000_000)


def _closed() -> StoreUnavailable:
    return StoreUnavailable("The store is closed; the daemon is shutting down.")
