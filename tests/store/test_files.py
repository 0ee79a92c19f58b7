from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kheish.store.blobs import BlobMissing, BlobStore
from kheish.store.database import SqliteDatabase
from kheish.store.lock import StateLock, StateRootLocked
from kheish.store.migrations import Migration, MigrationFailed, SchemaMismatch, migrate, shipped


def test_a_second_process_cannot_take_the_lock(tmp_path: Path) -> None:
    lock = StateLock(tmp_path)
    lock.acquire()
    code = (
        "import sys, pathlib; from kheish.store.lock import StateLock, StateRootLocked\n"
        "try: StateLock(pathlib.Path(sys.argv[1])).acquire()\n"
        "except StateRootLocked: sys.exit(7)"
    )

    found = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env={**os.environ, "PYTHONPATH": "src"})

    assert found.returncode == 7
    assert lock.path.read_text() == f"pid={os.getpid()}\nmechanism=flock\n"
    lock.release()


def test_a_stale_lock_file_is_harmless_and_truncated(tmp_path: Path) -> None:
    (tmp_path / "daemon.lock").write_text("pid=99999999999999\nmechanism=flock\nleft over\n")
    lock = StateLock(tmp_path)

    lock.acquire()

    assert lock.path.read_text() == f"pid={os.getpid()}\nmechanism=flock\n"
    with pytest.raises(StateRootLocked):
        StateLock(tmp_path).acquire()
    lock.release()


def test_a_blob_is_named_by_its_digest_and_verified_on_read(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)

    name = blobs.put(b"hello")

    assert blobs.put(b"hello") == name
    assert blobs.get(name) == b"hello"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [name]
    blobs.path(name).write_bytes(b"other")
    with pytest.raises(BlobMissing):
        blobs.get(name)


def test_an_edited_migration_is_refused() -> None:
    database = SqliteDatabase(None)
    first = Migration(number=1, name="0001_first.sql", sql="CREATE TABLE a (x);")
    database.run_offline(lambda connection: migrate(connection, (first,)))

    edited = Migration(number=1, name="0001_first.sql", sql="CREATE TABLE a (x, y);")

    with pytest.raises(SchemaMismatch, match="0001_first"):
        database.run_offline(lambda connection: migrate(connection, (edited,)))
    database.close()


def test_a_database_of_a_newer_release_is_refused() -> None:
    database = SqliteDatabase(None)
    newer = Migration(number=9, name="0009_future.sql", sql="CREATE TABLE a (x);")
    database.run_offline(lambda connection: migrate(connection, (newer,)))

    with pytest.raises(SchemaMismatch, match="9"):
        database.run_offline(lambda connection: migrate(connection, ()))
    database.close()


def test_a_failing_migration_leaves_nothing_behind() -> None:
    database = SqliteDatabase(None)
    broken = Migration(number=1, name="0001.sql", sql="CREATE TABLE a (x);\nCREATE TABLE a (x);")

    with pytest.raises(MigrationFailed, match="0001"):
        database.run_offline(lambda connection: migrate(connection, (broken,)))

    tables = database.run_offline(
        lambda connection: [row["name"] for row in connection.execute("SELECT name FROM sqlite_master")]
    )
    assert "a" not in tables
    database.close()


def test_every_shipped_migration_has_a_number_of_its_own() -> None:
    numbers = [migration.number for migration in shipped()]

    assert numbers == list(range(1, len(numbers) + 1))
