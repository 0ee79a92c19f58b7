from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from kheish.core.problems import Conflict, StoreRejected, StoreUnavailable, StoreUnreadable
from kheish.store.database import SqliteDatabase, Transaction
from kheish.store.events import Change, FeedEvent
from kheish.store.feed import Feed
from kheish.store.migrations import migrate, shipped

pytestmark = pytest.mark.anyio

_INSERT = "INSERT INTO binding_keys (binding_key, session_id) VALUES (:key, 'demo')"
_KEYS = "SELECT binding_key FROM binding_keys ORDER BY binding_key"


def insert(key: str) -> Callable[[Transaction], str]:
    def unit(transaction: Transaction) -> str:
        transaction.connection.execute(_INSERT, {"key": key})
        return key

    return unit


def keys(connection: sqlite3.Connection) -> list[str]:
    return [row["binding_key"] for row in connection.execute(_KEYS)]


async def test_a_write_that_returned_is_visible_to_readers(database: SqliteDatabase) -> None:
    assert await database.write(insert("a")) == "a"

    assert await database.read(keys) == ["a"]


async def test_units_that_wait_together_share_one_commit(database: SqliteDatabase) -> None:
    gate = threading.Event()
    blocked = asyncio.ensure_future(database.write(lambda _: gate.wait(5)))
    writes = [asyncio.ensure_future(database.write(insert(f"k{n}"))) for n in range(10)]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(blocked, *writes)

    assert database.statistics.units == 11
    assert database.statistics.commits <= 2
    assert len(await database.read(keys)) == 10


async def test_a_unit_that_raises_is_rolled_back_alone(database: SqliteDatabase) -> None:
    def refuse(transaction: Transaction) -> None:
        transaction.connection.execute(_INSERT, {"key": "refused"})
        raise Conflict("no")

    results = await asyncio.gather(
        database.write(insert("before")),
        database.write(refuse),
        database.write(insert("after")),
        return_exceptions=True,
    )

    assert isinstance(results[1], Conflict)
    assert await database.read(keys) == ["after", "before"]


async def test_events_of_units_that_refuse_are_neither_stored_nor_given_an_id(tmp_path: Path) -> None:
    def tell(what: str, *, refuse: bool = False) -> Callable[[Transaction], None]:
        def unit(transaction: Transaction) -> None:
            feed.append(transaction, type=what, session_id=None, run_id=None, data={})
            transaction.kept.append(lambda: kept.append(what))
            if refuse:
                raise Conflict("no")

        return unit

    kept: list[str] = []
    database = SqliteDatabase(tmp_path / "kheish.db")
    database.run_offline(migrate)
    feed = Feed(database)
    database.attach(feed)
    gate = threading.Event()
    blocked = asyncio.ensure_future(database.write(lambda _: gate.wait(5)))
    units = (tell("a"), tell("b"), tell("no", refuse=True), tell("c"))
    writes = [asyncio.ensure_future(database.write(unit)) for unit in units]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(blocked, *writes, return_exceptions=True)
    stored = await database.read(lambda reader: reader.execute("SELECT id, type FROM feed ORDER BY id").fetchall())
    database.close()

    assert [tuple(row) for row in stored] == [(1, "a"), (2, "b"), (3, "c")]
    assert (kept, feed.tail_id) == (["a", "b", "c"], 3)


async def test_a_constraint_that_fails_touches_no_other_unit(database: SqliteDatabase) -> None:
    await database.write(insert("a"))

    with pytest.raises(StoreRejected):
        await database.write(insert("a"))

    await database.write(insert("b"))
    assert await database.read(keys) == ["a", "b"]


async def test_a_reader_cannot_write(database: SqliteDatabase) -> None:
    def sneak(connection: sqlite3.Connection) -> None:
        connection.execute(_INSERT, {"key": "sneaky"})

    with pytest.raises(StoreUnreadable, match="readonly"):
        await database.read(sneak)


async def test_a_closed_store_says_so_to_who_writes_and_who_reads(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "kheish.db")
    database.close()

    with pytest.raises(StoreUnavailable):
        await database.write(lambda _: None)
    with pytest.raises(StoreUnavailable):
        await database.read(lambda _: None)


async def test_what_was_written_is_there_after_reopening(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "kheish.db")
    database.run_offline(migrate)
    await database.write(insert("kept"))
    database.close()

    again = SqliteDatabase(tmp_path / "kheish.db")
    assert again.run_offline(migrate) == []
    assert await again.read(keys) == ["kept"]
    again.close()


def test_the_file_database_is_in_wal_mode_with_full_synchronisation(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "kheish.db")

    modes = database.run_offline(
        lambda connection: (
            connection.execute("PRAGMA journal_mode").fetchone()[0],
            connection.execute("PRAGMA synchronous").fetchone()[0],
        )
    )

    assert modes == ("wal", 2)
    database.close()


async def test_a_unit_with_broken_sql_fails_alone(database: SqliteDatabase) -> None:
    def broken(transaction: Transaction) -> None:
        transaction.connection.execute("INSERT INTO no_such_table VALUES (1)")

    gate = threading.Event()
    blocked = asyncio.ensure_future(database.write(lambda _: gate.wait(5)))
    writes = [asyncio.ensure_future(database.write(unit)) for unit in (insert("a"), broken, insert("b"))]
    await asyncio.sleep(0)
    gate.set()
    await blocked
    results = await asyncio.gather(*writes, return_exceptions=True)

    assert (results[0], results[2]) == ("a", "b")
    assert isinstance(results[1], StoreRejected)
    assert await database.read(keys) == ["a", "b"]


def test_the_database_is_for_its_owner_only(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "kheish.db")
    database.run_offline(migrate)

    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    database.close()


async def test_a_reader_that_failed_half_way_sees_what_is_written_afterwards(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "kheish.db")
    database.run_offline(migrate)
    for number in range(3):
        await database.write(insert(f"before {number}"))

    def half_way(connection: sqlite3.Connection) -> None:
        for row in connection.execute("SELECT binding_key FROM binding_keys"):
            raise ValueError(row["binding_key"])

    # As many failures as there are readers; the errors are kept, as a log or a task keeps them.
    failures = await asyncio.gather(*(database.read(half_way) for _ in range(8)), return_exceptions=True)
    await database.write(insert("after"))
    seen = [await database.read(keys) for _ in range(8)]

    assert all(isinstance(failure, ValueError) for failure in failures)
    assert all("after" in found for found in seen)
    database.close()


async def test_a_store_that_another_process_keeps_locked_refuses_the_whole_group_at_once(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "kheish.db")
    database.run_offline(migrate)
    database.run_offline(lambda connection: connection.execute("PRAGMA busy_timeout = 200"))
    other = sqlite3.connect(tmp_path / "kheish.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    started = asyncio.get_running_loop().time()
    results = await asyncio.gather(
        *(database.write(insert(f"refused {number}")) for number in range(40)), return_exceptions=True
    )
    took = asyncio.get_running_loop().time() - started
    other.execute("ROLLBACK")

    assert all(isinstance(result, StoreUnavailable) for result in results)
    assert took < 2
    assert await database.write(insert("accepted")) == "accepted"
    database.close()
    other.close()


def test_a_bug_in_a_subscriber_leaves_nobody_waiting_for_a_commit(tmp_path: Path) -> None:
    class Broken(Feed):
        def publish(self, events: list[FeedEvent]) -> None:
            raise ValueError("a bug")

    def unit(transaction: Transaction) -> str:
        transaction.published.append(Change(type="x", session_id=None, run_id=None, data=b"{}"))
        return "written"

    async def write() -> str:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: seen.append(context["exception"]))
        return await asyncio.wait_for(database.write(unit), 5)

    seen: list[object] = []
    database = SqliteDatabase(tmp_path / "kheish.db")
    database.run_offline(migrate)
    database.attach(Broken(database))
    assert asyncio.run(write()) == "written"
    assert [type(error) for error in seen] == [ValueError]
    database.close()


def test_what_sessions_took_and_used_before_is_counted_once(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "kheish.db")
    entries = [("a", 1, "{}"), ("a", 2, '{"é":1}'), ("b", 1, "{}")]
    columns = "session_id, agent_id, thread_id, created_at_ms, updated_at_ms, status, journal_len, todos"
    sessions = [(name, f"agent-{name}", "t", 1, 2, "idle", 3, "[]") for name in ("a", "b", "new")]

    def fill(connection: sqlite3.Connection) -> None:
        migrate(connection, shipped()[:3])
        connection.executemany("INSERT INTO journal VALUES (?, ?, NULL, 0, 'woken', 1, ?)", entries)
        connection.executemany(f"INSERT INTO sessions ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", sessions)
        connection.execute("INSERT INTO usage_by_session VALUES ('b', 5, 6, 0.25)")

    try:
        database.run_offline(fill)
        database.run_offline(migrate)
        counts = "SELECT session_id, journal_bytes, input_tokens, output_tokens, cost_usd FROM sessions ORDER BY 1"
        counted = database.run_offline(lambda connection: connection.execute(counts).fetchall())
        query = f"SELECT {columns} FROM sound_sessions ORDER BY session_id"
        kept = database.run_offline(lambda connection: connection.execute(query).fetchall())
    finally:
        database.close()

    assert [tuple(row) for row in counted] == [("a", 2 + 8, 0, 0, 0), ("b", 2, 5, 6, 0.25), ("new", 0, 0, 0, 0)]
    assert [tuple(row) for row in kept] == sessions


def test_every_migration_has_a_number_of_its_own() -> None:
    numbers = [migration.number for migration in shipped()]

    assert numbers == list(range(1, len(numbers) + 1))


async def test_a_bug_in_the_writing_thread_is_told_to_those_who_wait_and_the_next_ones_are_served(
    tmp_path: Path,
) -> None:
    class Buggy(SqliteDatabase):
        broken = False

        def _run(self, group: object) -> None:
            if self.broken:
                raise ValueError("a bug")
            super()._run(group)  # type: ignore[arg-type]  # the type of a unit is the store's own

    database = Buggy(tmp_path / "kheish.db")
    database.run_offline(migrate)
    database.broken = True
    with pytest.raises(ValueError, match="a bug"):
        await asyncio.wait_for(database.write(insert("lost")), 30)
    database.broken = False

    assert await database.write(insert("kept")) == "kept"
    assert await database.read(keys) == ["kept"]
    database.close()


@pytest.mark.parametrize("page_bytes", [None, 4096], ids=["a new one", "one of an earlier release"])
def test_the_log_grows_to_as_many_bytes_whatever_the_pages_of_the_database(
    tmp_path: Path, page_bytes: int | None
) -> None:
    path = tmp_path / "kheish.db"
    if page_bytes is not None:
        with closing(sqlite3.connect(path)) as earlier:
            earlier.execute(f"PRAGMA page_size = {page_bytes}")
            earlier.execute("CREATE TABLE kept (id INTEGER PRIMARY KEY)")
    database = SqliteDatabase(path)

    try:
        pages, size = database.run_offline(
            lambda connection: [
                connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("wal_autocheckpoint", "page_size")
            ]
        )
    finally:
        database.close()

    assert size == (page_bytes or 2048)
    assert pages * size == 16 * 1024 * 1024


async def test_while_a_commit_is_under_way_its_caller_may_do_something_else(tmp_path: Path) -> None:
    told = threading.Event()
    order: list[str] = []

    def hold_commits(sql: str) -> None:
        if sql == "COMMIT":
            assert told.wait(5)
            order.append("durable")

    def meanwhile() -> None:
        order.append(f"meanwhile, {'here' if threading.current_thread() is here else 'elsewhere'}")
        told.set()

    here = threading.current_thread()
    database = SqliteDatabase(tmp_path / "kheish.db")
    database.run_offline(migrate)
    database.run_offline(lambda connection: connection.set_trace_callback(hold_commits))
    await asyncio.wait_for(database.write(insert("a"), meanwhile=meanwhile), 10)
    database.close()

    assert order == ["meanwhile, here", "durable"]


async def test_nothing_is_done_meanwhile_for_a_unit_that_refuses(database: SqliteDatabase) -> None:
    def refuse(transaction: Transaction) -> None:
        raise Conflict("no")

    called: list[str] = []
    units = (insert("a"), refuse, insert("b"))
    results = await asyncio.gather(
        *(database.write(unit, meanwhile=lambda n=n: called.append(n)) for n, unit in zip("arb", units, strict=True)),
        return_exceptions=True,
    )

    assert (results[0], type(results[1]), results[2]) == ("a", Conflict, "b")
    assert called == ["a", "b"]


async def test_a_commit_that_fails_after_all_is_told_although_something_was_done_meanwhile(tmp_path: Path) -> None:
    def prepare(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE parents (id INTEGER PRIMARY KEY)")
        connection.execute(
            "CREATE TABLE children (parent INTEGER REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED)"
        )

    def orphan(transaction: Transaction) -> None:
        transaction.connection.execute("INSERT INTO children VALUES (1)")

    called: list[str] = []
    database = SqliteDatabase(tmp_path / "kheish.db")
    database.run_offline(prepare)
    with pytest.raises(StoreRejected):
        await database.write(orphan, meanwhile=lambda: called.append("once"))
    children = await database.read(lambda reader: reader.execute("SELECT * FROM children").fetchall())
    database.close()

    assert (called, children) == (["once"], [])
