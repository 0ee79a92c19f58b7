"""Damage of the database's files that SQLite would pass over in silence is found, and looking changes nothing."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from kheish.store.database import SqliteDatabase
from kheish.store.inspection import find_damage, tables
from kheish.store.migrations import migrate, shipped, tables_of
from kheish.store.snapshot import reading

FILES = ("", "-wal", "-shm")


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """A database as a killed process leaves it: with a log full of commits, and the log's index."""
    made, left = tmp_path / "made" / "kheish.db", tmp_path / "left" / "kheish.db"
    for folder in (made.parent, left.parent):
        folder.mkdir()
    with closing(sqlite3.connect(made, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE kept (text TEXT)")
        for number in range(30):
            connection.execute("INSERT INTO kept VALUES (?)", (f"{number}" * 3000,))
        for end in FILES:
            shutil.copy(f"{made}{end}", f"{left}{end}")
    return left


def log(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def flipped(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0x55
    path.write_bytes(content)


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def contents(path: Path) -> dict[str, bytes]:
    return {found.name: found.read_bytes() for found in path.parent.iterdir() if not found.name.endswith("-shm")}


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a byte in the middle of the log": (lambda path: flipped(log(path), log(path).stat().st_size // 2), "can be read"),
    "a byte in the first frame": (lambda path: flipped(log(path), 200), "and 0 can be read"),
    "a byte in the last frame": (lambda path: flipped(log(path), log(path).stat().st_size - 1), "can be read"),
    "the second half of the log": (lambda path: cut(log(path), log(path).stat().st_size // 2), "its log is cut"),
    "all but the log's header": (lambda path: cut(log(path), 32), "its log is cut"),
    "a byte in the log's header": (lambda path: flipped(log(path), 20), "header of its log"),
    "garbage for a log": (lambda path: log(path).write_bytes(os.urandom(50_000)) and None, "header of its log"),
    "an empty database beside a log": (lambda path: cut(path, 0), "empty or missing"),
    "no database beside a log": (lambda path: path.unlink(), "empty or missing"),
    "garbage for a database": (lambda path: path.write_bytes(os.urandom(50_000)) and None, "no database"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_each_time_one_looks_and_nothing_is_changed(killed: Path, damage: str) -> None:
    harm, words = DAMAGES[damage]
    harm(killed)
    before = contents(killed)

    for _ in range(3):
        assert words in str(find_damage(killed))
    assert contents(killed) == before


def test_what_a_kill_and_a_power_cut_leave_is_no_damage(killed: Path) -> None:
    assert find_damage(killed) is None
    whole = log(killed).read_bytes()
    log(killed).write_bytes(whole + os.urandom(5000))
    assert find_damage(killed) is None
    killed.with_name(f"{killed.name}-shm").unlink()
    log(killed).write_bytes(whole[:-1])
    assert find_damage(killed) is None
    log(killed).write_bytes(bytes(32))
    assert find_damage(killed) is None


def test_nothing_is_wrong_with_a_database_at_work_or_closed_or_not_there_yet(tmp_path: Path) -> None:
    path = tmp_path / "kheish.db"
    assert (find_damage(path), tables(path)) == (None, set())
    database = SqliteDatabase(path)
    database.run_offline(migrate)
    assert find_damage(path) is None
    database.run_offline(lambda connection: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone())
    assert find_damage(path) is None
    database.close()
    assert find_damage(path) is None
    assert tables(path) >= tables_of(shipped())


def test_a_closed_database_that_was_cut_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "kheish.db"
    database = SqliteDatabase(path)
    database.run_offline(migrate)
    database.close()
    for size in (path.stat().st_size - 4096, 4096, 99):
        cut(path, size)
        assert "cut" in str(find_damage(path))


def test_the_tables_of_the_migrations_are_those_of_a_new_database(tmp_path: Path) -> None:
    path = tmp_path / "kheish.db"
    database = SqliteDatabase(path)
    database.run_offline(migrate)
    database.close()
    with reading(path) as connection:
        found = {row["name"] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}

    assert found - tables_of(shipped()) == {"schema_migrations", "sqlite_sequence"}
    assert tables_of(shipped()) - found == set()
