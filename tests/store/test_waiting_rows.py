"""Rows of all units of a commit are written together, and nobody can tell but by the number of statements."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing, suppress

import pytest

from kheish.core.problems import StoreRejected
from kheish.store.database import SqliteDatabase, Transaction
from kheish.store.remembered import Remembered
from kheish.store.rows import change, insertion

pytestmark = pytest.mark.anyio

INSERT = insertion("binding_keys (binding_key, session_id)")
MOVE = change("binding_keys", "binding_key", ("session_id",), "session_id = new.session_id")
ROWS = "SELECT binding_key, session_id FROM binding_keys ORDER BY binding_key"


def rows(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    return [tuple(row) for row in connection.execute(ROWS)]


async def together(database: SqliteDatabase, *units: Callable[[Transaction], object]) -> list[object]:
    """Run the units in one commit; what each returned or raised."""
    gate = threading.Event()
    blocked = asyncio.ensure_future(database.write(lambda _: gate.wait(5)))
    writes = [asyncio.ensure_future(database.write(unit)) for unit in units]
    await asyncio.sleep(0)
    gate.set()
    await blocked
    return await asyncio.gather(*writes, return_exceptions=True)


def adding(key: str, session_id: str = "a") -> Callable[[Transaction], None]:
    return lambda transaction: transaction.add(INSERT, ((key, session_id),))


async def test_the_rows_of_many_units_take_one_statement(database: SqliteDatabase) -> None:
    seen: list[str] = []
    database.run_offline(lambda connection: connection.set_trace_callback(seen.append))
    await together(database, *(adding(f"k{number:02}") for number in range(16)))

    assert len([statement for statement in seen if statement.startswith("INSERT")]) == 1
    assert await database.read(rows) == [(f"k{number:02}", "a") for number in range(16)]


async def test_more_rows_than_a_statement_takes_are_all_written(database: SqliteDatabase) -> None:
    keys = [(f"k{number:03}", "a") for number in range(70)]
    await database.write(lambda transaction: transaction.add(INSERT, keys))
    await database.write(lambda transaction: transaction.add(MOVE, [(key, "b") for key, _ in keys]))

    assert await database.read(rows) == [(key, "b") for key, _ in keys]


async def test_a_unit_that_looks_sees_the_rows_that_waited(database: SqliteDatabase) -> None:
    _, seen = await together(database, adding("one"), lambda transaction: rows(transaction.connection))

    assert seen == [("one", "a")]


async def test_a_row_that_contradicts_refuses_its_own_unit_alone(database: SqliteDatabase) -> None:
    await database.write(adding("there"))
    results = await together(database, adding("before"), adding("there", "b"), adding("after"))

    assert [type(result) for result in results] == [type(None), StoreRejected, type(None)]
    assert await database.read(rows) == [("after", "a"), ("before", "a"), ("there", "a")]


async def test_a_change_of_a_row_that_is_gone_refuses_its_own_unit_alone(database: SqliteDatabase) -> None:
    def moving(key: str) -> Callable[[Transaction], None]:
        return lambda transaction: transaction.add(MOVE, ((key, "b"),))

    await database.write(adding("there"))
    results = await together(database, moving("there"), moving("gone"), adding("after"))

    assert [type(result) for result in results] == [type(None), StoreRejected, type(None)]
    assert await database.read(rows) == [("after", "a"), ("there", "b")]


async def test_rows_that_could_not_be_written_fail_the_commit_of_a_unit_that_looks_away(
    database: SqliteDatabase,
) -> None:
    def looking_away(transaction: Transaction) -> None:
        transaction.add(INSERT, (("there", "b"),))
        with suppress(sqlite3.IntegrityError):
            rows(transaction.connection)

    await database.write(adding("there"))
    results = await together(database, adding("before"), looking_away)

    assert [type(result) for result in results] == [type(None), StoreRejected]
    assert await database.read(rows) == [("before", "a"), ("there", "a")]


@pytest.mark.parametrize("known", [0, 1])
@pytest.mark.parametrize("value", [None, 0, 7, "7", "x"])
def test_a_row_alone_changes_as_it_does_among_others(known: int, value: object) -> None:
    """Some of what becomes of a row depends on what it was, or on which values are there."""
    names = ("kept", "summed", "known", "said", "said_before")
    changes = (
        "kept = COALESCE(new.kept, things.kept), summed = things.summed + new.summed,"
        " said = CASE WHEN new.known THEN new.said ELSE things.said END, said_before = new.said_before"
    )
    statement = change("things", "id", names, changes)
    found = []
    for apart in (True, False):
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
            connection.execute("CREATE TABLE things (id TEXT, kept TEXT, summed INTEGER, said TEXT, said_before TEXT)")
            connection.executemany("INSERT INTO things VALUES (?, 'old', 5, 'old', 'old')", [("a",), ("b",), ("c",)])
            changed = [(id, value, value, known, value, "new.said") for id in ("a", "b")]
            for rows_at_once in [[row] for row in changed] if apart else [changed]:
                statement.run(connection, rows_at_once)
            found.append(connection.execute("SELECT * FROM things").fetchall())

    assert found[0] == found[1]
    assert found[0][2] == ("c", "old", 5, "old", "old") != found[0][1]


async def test_a_second_unit_about_the_same_finds_what_the_first_one_wrote(database: SqliteDatabase) -> None:
    remembered: Remembered[str] = Remembered(2)

    def move(to: str) -> Callable[[Transaction], str | None]:
        def unit(transaction: Transaction) -> str | None:
            transaction.begin("x")
            known = remembered.find(transaction, "x")
            transaction.add(MOVE, (("x", to),))
            remembered.keep(transaction, "x", to)
            return known

        return unit

    await database.write(adding("x"))
    assert await together(database, move("b"), move("c")) == [None, None]
    assert await together(database, move("d"), move("e")) == ["c", None]
    assert await database.read(rows) == [("x", "e")]


async def test_nothing_is_remembered_over_a_commit_that_failed(database: SqliteDatabase) -> None:
    remembered: Remembered[str] = Remembered(2)
    await database.write(lambda transaction: remembered.keep(transaction, "x", "a"))
    assert await database.write(lambda transaction: remembered.find(transaction, "x")) == "a"

    with pytest.raises(StoreRejected):
        await database.write(lambda transaction: transaction.connection.execute("INSERT INTO nothing VALUES (1)"))
    assert await database.write(lambda transaction: remembered.find(transaction, "x")) is None
    assert remembered.last("x") == "a"


async def test_the_least_recent_value_is_forgotten(database: SqliteDatabase) -> None:
    remembered: Remembered[str] = Remembered(2)
    for key in ("x", "y"):
        await database.write(lambda transaction, key=key: remembered.keep(transaction, key, key))
    await database.write(lambda transaction: remembered.find(transaction, "x"))
    await database.write(lambda transaction: remembered.keep(transaction, "z", "z"))
    found = [await database.write(lambda transaction, key=key: remembered.find(transaction, key)) for key in "xyz"]

    assert found == ["x", None, "z"]
