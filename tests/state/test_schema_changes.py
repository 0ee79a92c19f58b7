"""A change of the schema begins with a copy."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from kheish.state.store import tables
from kheish.state.vacuum import content_digest
from kheish.store.database import SqliteDatabase
from kheish.store.migrations import Migration, MigrationFailed, migrate, shipped
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
