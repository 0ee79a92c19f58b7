"""A change of the schema begins with a copy."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import cast

import pytest

from kheish.state.store import tables
from kheish.state.vacuum import content_digest, vacuum
from kheish.store.database import SqliteDatabase
from kheish.store.migrations import Migration, MigrationFailed, migrate, shipped
from tests.fakes.watching import Each
from tests.http.house import opened
from tests.state.conftest import Kept, allow

NEXT = Migration(number=900, name="0900_next.sql", sql="CREATE TABLE next_table (x);")
BROKEN = Migration(number=901, name="0901_broken.sql", sql="CREATE TABLE a (x);\nCREATE TABLE a (x);")


def change(kept: Kept, *more: Migration) -> list[str]:
    database = SqliteDatabase(kept.database)
    try:
        return database.run_offline(
            lambda connection: migrate(connection, (*shipped(), *more), backups=kept.state / "backups")
        )
    finally:
        database.close()


def copies(kept: Kept) -> list[Path]:
    return sorted((kept.state / "backups").glob("*.db"))


def test_a_database_with_content_is_copied_before_its_schema_changes(kept: Kept) -> None:
    before = content_digest(kept.database)

    assert change(kept) == []
    assert copies(kept) == []
    assert change(kept, NEXT) == ["0900_next.sql"]
    [copy] = copies(kept)
    assert content_digest(copy) == before
    assert copy.stat().st_mode & 0o777 == 0o600


def test_a_new_database_needs_no_copy(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "kheish.db")
    database.run_offline(lambda connection: migrate(connection, backups=tmp_path / "backups"))
    database.close()

    assert not (tmp_path / "backups").exists()


def test_a_failing_change_leaves_the_database_as_it_was_and_names_the_copy(kept: Kept) -> None:
    before = content_digest(kept.database)
    with pytest.raises(MigrationFailed) as caught:
        change(kept, BROKEN)

    assert str(copies(kept)[0]) in caught.value.detail
    assert content_digest(kept.database) == before


def test_a_change_that_fails_takes_those_before_it_back_too(kept: Kept) -> None:
    before = content_digest(kept.database)
    with pytest.raises(MigrationFailed, match="0901_broken"):
        change(kept, NEXT, BROKEN)

    assert content_digest(kept.database) == before
    assert change(kept, NEXT) == ["0900_next.sql"]


def test_a_start_that_fails_again_and_again_costs_no_older_copy(kept: Kept) -> None:
    folder = kept.state / "backups"
    folder.mkdir(mode=0o700)
    for schema in (1, 2):
        shutil.copyfile(kept.database, folder / f"kheish-schema-{schema:04d}-{1000 + schema}.db")
    (folder / ".kheish-schema-0001-1.db.abcd.partial").write_bytes(b"half")
    for _ in range(4):
        with pytest.raises(MigrationFailed):
            change(kept, BROKEN)

    schema = shipped()[-1].number
    assert [path.name.split("-")[2] for path in copies(kept)] == ["0001", "0002", f"{schema:04d}"]
    assert [path.suffix for path in folder.iterdir()] == [".db", ".db", ".db"]


def test_without_room_for_the_copy_nothing_changes(kept: Kept) -> None:
    (kept.state / "backups").write_text("a file where the folder should be")
    before = content_digest(kept.database)
    with pytest.raises(MigrationFailed, match="no copy could be made"):
        change(kept, NEXT)

    assert content_digest(kept.database) == before


def test_the_newest_three_copies_stay(kept: Kept) -> None:
    later = [Migration(number=910 + n, name=f"09{10 + n}.sql", sql=f"CREATE TABLE t{n} (x);") for n in range(5)]
    for count in range(1, 6):
        change(kept, *later[:count])

    assert [path.name.split("-")[2] for path in copies(kept)] == ["0911", "0912", "0913"]


def as_the_first_release_had_it(kept: Kept, target: Path) -> None:
    """The rows of a daemon in a database of the first schema alone."""
    with closing(sqlite3.connect(target, isolation_level=None)) as connection:
        connection.row_factory = sqlite3.Row
        migrate(connection, shipped()[:1])
        connection.execute("ATTACH ? AS filled", (str(kept.database),))
        for table in tables(connection):
            if table != "schema_migrations":
                names = ", ".join(row["name"] for row in connection.execute(f"PRAGMA main.table_info({table})"))
                connection.execute(f"INSERT INTO main.{table} ({names}) SELECT {names} FROM filled.{table}")


@pytest.mark.anyio
async def test_a_database_of_the_first_release_goes_on(kept: Kept, tmp_path: Path) -> None:
    """Runs of every fate under the first schema, migrated by the daemon itself: nothing is lost, all go on."""
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    (state / "kheish.db").touch(mode=0o600)
    as_the_first_release_had_it(kept, state / "kheish.db")
    assert {finding["code"] for finding in Kept(tmp_path).verified()["findings"]} == {"schema_older"}
    async with opened(kept.root) as house:
        before = (await house.get("/v1/sessions/s/events")).json()
    async with opened(tmp_path) as house:
        assert (await house.get("/v1/sessions/s/events")).json() == before
        [pending] = (await house.get("/v1/sessions/wait/approvals")).json()
        await allow(house, pending["run_id"], pending["request"]["id"])
        await house.settled("wait")
        runs = (await house.get("/v1/runs", session_id="wait")).json()
        await house.submit("hi")
        await house.settled()
        largest = (await house.get("/v1/status")).json()["storage"]["session_storage"]

    assert [run["status"] for run in runs] == ["completed", "completed"]
    assert largest["total_bytes"] == Kept(tmp_path).rows("SELECT SUM(LENGTH(CAST(body AS BLOB))) FROM journal")[0][0]
    [copy] = (state / "backups").glob("kheish-schema-0001-*.db")
    assert Kept(tmp_path).verified()["findings"] == []
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("SELECT MAX(number) FROM schema_migrations").fetchone() == (1,)


def test_entries_and_records_are_the_same_in_order_of_arrival(tmp_path: Path) -> None:
    moved = ("journal", "external_actions")
    with closing(sqlite3.connect(tmp_path / "kheish.db", isolation_level=None)) as connection:
        connection.row_factory = sqlite3.Row
        migrate(connection, shipped()[:7])
        for session in ("b", "a"):
            for position in (2, 1):
                connection.execute(
                    "INSERT INTO journal VALUES (?, ?, 'run-1', 5, 'woken', 1, ?)", (session, position, "é" * position)
                )
                connection.execute(
                    "INSERT INTO external_actions (bucket, position, timestamp_ms, phase, kind, target, record_hash, "
                    "key_id, signature) VALUES (?, ?, 7, 'request', 'tool_call', 'tool:bash', 'h', 'k', ?)",
                    (session, position, f"{session}{position}"),
                )
        before = {table: sorted(map(tuple, connection.execute(f"SELECT * FROM {table}")), key=repr) for table in moved}
        migrate(connection)
        after = {table: sorted(map(tuple, connection.execute(f"SELECT * FROM {table}")), key=repr) for table in moved}
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute("INSERT INTO journal VALUES ('a', 1, NULL, 5, 'woken', 1, '{}')")

    assert after == before
    assert len(after["journal"]) == len(after["external_actions"]) == 4


def test_a_compacted_database_of_an_older_schema_counts_its_events_as_before(kept: Kept, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    as_the_first_release_had_it(kept, state / "kheish.db")
    moved = Kept(tmp_path)
    moved.change("DELETE FROM feed")
    counted = moved.rows("SELECT seq FROM sqlite_sequence")
    vacuum(state)

    assert moved.rows("SELECT seq FROM sqlite_sequence") == counted == kept.rows("SELECT MAX(id) FROM feed")


MADE_ANEW = ("runs", "outputs", "feed")
"""By the tenth migration."""


@contextmanager
def of_schema(path: Path, number: int, kept: Kept) -> Iterator[sqlite3.Connection]:
    """A database of an older schema with the runs, outputs and events of a daemon."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.row_factory = sqlite3.Row
        migrate(connection, shipped()[:number])
        connection.execute("ATTACH ? AS filled", (str(kept.database),))
        for table in MADE_ANEW:
            names = ", ".join(row["name"] for row in connection.execute(f"PRAGMA main.table_info({table})"))
            connection.execute(f"INSERT INTO main.{table} ({names}) SELECT {names} FROM filled.{table}")
        connection.execute("DETACH filled")
        yield connection


def contents(connection: sqlite3.Connection) -> dict[str, list[dict[str, object]]]:
    found = {table: map(dict, connection.execute(f"SELECT * FROM {table}")) for table in MADE_ANEW}
    return {table: sorted(rows, key=lambda row: repr(sorted(row.items()))) for table, rows in found.items()}


@pytest.mark.parametrize("number", range(1, 10))
def test_runs_outputs_and_events_of_every_older_schema_are_the_same(kept: Kept, tmp_path: Path, number: int) -> None:
    with of_schema(tmp_path / "old.db", number, kept) as connection:
        before = contents(connection)
        migrate(connection)
        after = contents(connection)
        shown = [connection.execute(f"SELECT * FROM sound_{table}").fetchall() for table in ("runs", "outputs")]
        connection.execute("INSERT INTO feed (type, data) VALUES ('x', '{}')")
        newest = connection.execute("SELECT MAX(id) FROM feed").fetchone()[0]

    assert after == before
    assert [len(rows) for rows in shown] == [len(after["runs"]), len(after["outputs"])]
    assert newest == max(cast("int", row["id"]) for row in before["feed"]) + 1


def damage(connection: sqlite3.Connection, *statements: str) -> None:
    for statement in statements:
        assert connection.execute(statement).rowcount, statement


def test_damaged_runs_and_outputs_are_kept_unless_they_contradict_others(kept: Kept, tmp_path: Path) -> None:
    with of_schema(tmp_path / "old.db", 9, kept) as connection:
        damage(
            connection,
            "UPDATE runs SET number = x'ff' WHERE run_id = 'run-2'",
            "UPDATE runs SET number = 'x' WHERE run_id = 'run-3'",
            "UPDATE runs SET number = 3.5, request = x'ff', live = '{' WHERE run_id = 'run-4'",
            "UPDATE runs SET run_id = NULL WHERE run_id = 'run-5'",
            "UPDATE runs SET session_id = x'ff', first_offset = 'x' WHERE run_id = 'run-6'",
            "UPDATE runs SET number = 3 WHERE run_id = 'run-7'",
            "UPDATE runs SET run_id = 'run-01' WHERE run_id = 'run-8'",
            "UPDATE outputs SET position = x'ff', session_id = 's'",
            "UPDATE feed SET data = x'ff', type = x'ff' WHERE id = 3",
        )
        before = contents(connection)
        migrate(connection)
        after = contents(connection)
        numbers = connection.execute("SELECT run_id, number FROM runs ORDER BY number, run_id").fetchall()

    assert list(map(tuple, numbers)) == [
        ("run-1", 1), ("run-2", 2), ("run-3", 3), ("run-4", 4), ("run-5", 5), ("run-6", 6), ("run-7", 7)
    ]  # fmt: skip
    assert (after["outputs"], after["feed"]) == (before["outputs"], before["feed"])
    damaged = next(row for row in after["runs"] if row["run_id"] == "run-4")
    assert (damaged["request"], damaged["live"]) == (b"\xff", "{")


def without_constraints(connection: sqlite3.Connection, table: str) -> None:
    """As if a page was damaged: what SQLite would refuse is there."""
    changed = "replace(replace(sql, ' NOT NULL', ''), 'number INTEGER UNIQUE', 'number INTEGER')"
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute(f"UPDATE sqlite_schema SET sql = {changed} WHERE name = ?", (table,))
    connection.execute("DELETE FROM sqlite_schema WHERE name = 'sqlite_autoindex_runs_2' AND tbl_name = ?", (table,))
    connection.execute("PRAGMA writable_schema = RESET")


def test_a_number_that_became_that_of_another_run_costs_neither_of_them(kept: Kept, tmp_path: Path) -> None:
    """The one that waits for an approval would hold its session forever if its row was left out."""
    with of_schema(tmp_path / "old.db", 9, kept) as connection:
        before = contents(connection)
        without_constraints(connection, "runs")
        connection.execute("UPDATE runs SET number = 4 WHERE run_id = 'run-6'")
        connection.execute("UPDATE runs SET number = -1 WHERE run_id = 'run-8'")
        migrate(connection)
        after = contents(connection)

    assert after == before


def test_a_lost_value_keeps_no_database_from_its_migration(kept: Kept, tmp_path: Path) -> None:
    with of_schema(tmp_path / "old.db", 9, kept) as connection:
        for table in MADE_ANEW:
            without_constraints(connection, table)
        damage(
            connection,
            "UPDATE feed SET data = NULL WHERE id = 3",
            "UPDATE feed SET type = NULL WHERE id = 4",
            "UPDATE outputs SET body = NULL WHERE run_id = 'run-2'",
            "UPDATE runs SET status = NULL WHERE run_id = 'run-3'",
        )
        before = contents(connection)
        migrate(connection)
        after = contents(connection)

    assert {row["id"] for row in after["feed"]} == {row["id"] for row in before["feed"]}
    assert after["outputs"] == [row for row in before["outputs"] if row["body"] is not None]
    assert after["runs"] == [row for row in before["runs"] if row["status"] is not None]


IN_LITTLE_MEMORY = """
import sys
from pathlib import Path
from kheish.store.database import SqliteDatabase
from kheish.store.migrations import migrate

database = SqliteDatabase(Path(sys.argv[1]))
database.run_offline(lambda connection: connection.execute("PRAGMA hard_heap_limit = 8000000"))
database.run_offline(migrate)
database.close()
"""


def test_a_migration_takes_no_memory_for_what_it_moves(kept: Kept, tmp_path: Path) -> None:
    """In a process of its own, for the limit stays until its end."""
    large = '{"p": "' + "x" * 4000 + '"}'
    with of_schema(tmp_path / "old.db", 9, kept) as connection:
        connection.execute("BEGIN")
        columns = [row["name"] for row in connection.execute("PRAGMA table_info(runs)")]
        copied = {"run_id": "'run-' || value", "number": "value", "request": ":large"}
        connection.execute(
            f"INSERT INTO runs SELECT {', '.join(copied.get(name, name) for name in columns)}"
            " FROM json_each(:numbers) AS numbered JOIN runs ON run_id = 'run-1'",
            {"large": large, "numbers": json.dumps(list(range(100, 8100)))},
        )
        connection.execute(
            "INSERT INTO outputs SELECT session_id, run_id, '', number, request FROM runs WHERE number >= 100"
        )
        connection.execute("INSERT INTO feed (type, data) SELECT 'x', request FROM runs WHERE number >= 100")
        connection.execute("COMMIT")
    subprocess.run([sys.executable, "-c", IN_LITTLE_MEMORY, str(tmp_path / "old.db")], check=True)

    with closing(sqlite3.connect(tmp_path / "old.db")) as connection:
        assert connection.execute("SELECT COUNT(*) FROM runs WHERE number >= 100").fetchone() == (8000,)


@pytest.mark.anyio
@pytest.mark.parametrize("left", [0, 5])
async def test_an_id_of_an_event_that_is_gone_is_not_given_out_again(kept: Kept, tmp_path: Path, left: int) -> None:
    """Older releases could trim the newest events, when they were very large, and counted ids apart."""
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    (state / "kheish.db").touch(mode=0o600)
    as_the_first_release_had_it(kept, state / "kheish.db")
    moved = Kept(tmp_path)
    newest = kept.rows("SELECT MAX(id) FROM feed")[0][0]
    moved.change(f"DELETE FROM feed WHERE id > {left}")
    async with opened(tmp_path) as house:
        assert moved.verified()["findings"] == []
        async with house.daemon.board._feed.subscribe(cursor=max(left, newest - 1)) as watch:
            events = Each(watch)
            await house.submit("hi")
            first, second = [await anext(events) for _ in range(2)]

    assert (first.type, first.id) == ("stream_gap", newest)
    assert (second.type, second.id) == ("run_updated", newest + 1)
    assert moved.verified()["findings"] == []
