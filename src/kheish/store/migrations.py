"""Numbered, forward-only schema migrations. A file is never edited once it has shipped."""

from __future__ import annotations

import hashlib
import re
import sqlite3
import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from kheish.core.problems import Problem
from kheish.core.values import value_class
from kheish.store.files import private_folder
from kheish.store.snapshot import PARTIAL, copy_database

LEDGER = "schema_migrations"
"""The table of what was applied; no database of a daemon is without it."""
_KEPT_BACKUPS = 3
_TABLE_CHANGE = re.compile(r"^(?:CREATE TABLE (\w+)|DROP TABLE (\w+)|ALTER TABLE (\w+) RENAME TO (\w+))", re.MULTILINE)

_TABLE = f"""
CREATE TABLE IF NOT EXISTS {LEDGER} (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    sha256 TEXT NOT NULL
)
"""


class SchemaMismatch(Problem):
    """The database was written by a different release."""

    domain, code, status = "storage", "schema_mismatch", 500


class MigrationFailed(Problem):
    """The database could not be brought to this release's schema; it is as before."""

    domain, code, status = "storage", "migration_failed", 500


@value_class(frozen=True, kw_only=True, slots=True)
class Migration:
    number: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def shipped() -> tuple[Migration, ...]:
    """The migrations of this release, in order."""
    folder = resources.files("kheish.store").joinpath("schema")
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name)
    return tuple(
        Migration(number=int(file.name.split("_", 1)[0]), name=file.name, sql=file.read_text()) for file in files
    )


def migrate(
    connection: sqlite3.Connection,
    migrations: tuple[Migration, ...] | None = None,
    *,
    backups: Path | None = None,
) -> list[str]:
    """Apply what is missing, all of it or nothing; returns the names applied.

    A database that has content already is copied into the folder ``backups`` first; the copies of three schemas stay.

    Raises:
        SchemaMismatch: the database has a migration this release does not know, one with other content, or lost a
            table.
        MigrationFailed: there is no room for the copy, or a migration failed; the database is as before.
    """
    known = shipped() if migrations is None else migrations
    connection.execute(_TABLE)
    rows = connection.execute("SELECT number, name, sha256 FROM schema_migrations").fetchall()
    applied = {row["number"]: row for row in rows}
    _refuse_foreign(applied, known)
    _refuse_incomplete(connection, tables_of([migration for migration in known if migration.number in applied]))
    pending = [migration for migration in known if migration.number not in applied]
    copy = _back_up(connection, backups, max(applied)) if pending and applied and backups is not None else None
    if pending:
        _apply(connection, pending, copy)
    return [migration.name for migration in pending]


def _refuse_foreign(applied: dict[int, sqlite3.Row], known: tuple[Migration, ...]) -> None:
    unknown = sorted(set(applied) - {migration.number for migration in known})
    if unknown:
        raise SchemaMismatch(
            f"The database has migration {unknown[-1]}, which this release does not know. Start a newer release."
        )
    for migration in known:
        if migration.number in applied and applied[migration.number]["sha256"] != migration.sha256:
            raise SchemaMismatch(f"Migration {migration.name} was changed after it had been applied.")


def tables_of(migrations: Sequence[Migration]) -> set[str]:
    """The tables these migrations leave behind."""
    found: set[str] = set()
    for migration in migrations:
        for made, dropped, before, after in _TABLE_CHANGE.findall(migration.sql):
            found -= {dropped, before}
            found |= {made, after}
    return found - {""}


def _refuse_incomplete(connection: sqlite3.Connection, expected: set[str]) -> None:
    rows = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
    lost = sorted(expected - {row["name"] for row in rows})
    if lost:
        raise SchemaMismatch(
            f"Tables of the database are gone: {', '.join(lost)}. Look with `kheish-daemon state verify`, and restore "
            "a backup with `kheish-daemon state restore`."
        )


def _back_up(connection: sqlite3.Connection, backups: Path, schema: int) -> Path:
    source = Path(connection.execute("PRAGMA database_list").fetchone()["file"])
    target = backups / f"kheish-schema-{schema:04d}-{time.time_ns() // 1_000_000}.db"
    try:
        private_folder(backups)
        copy_database(source, target)
        _tidy(backups)
    except (OSError, sqlite3.Error) as error:
        raise MigrationFailed(
            f"The schema of {source} would change, and no copy could be made in {backups}: {error}. "
            "Make room and start again."
        ) from error
    return target


def _tidy(backups: Path) -> None:
    """Keep the newest copy of each of the newest schemas, so that a start that fails again and again costs no other."""
    for unfinished in backups.glob(f".kheish-schema-*{PARTIAL}"):
        unfinished.unlink()
    by_schema: dict[str, Path] = {}
    for copy in sorted(backups.glob("kheish-schema-*.db"), key=_made_at, reverse=True):
        if by_schema.setdefault(copy.name.split("-")[2], copy) != copy or len(by_schema) > _KEPT_BACKUPS:
            copy.unlink()


def _made_at(copy: Path) -> int:
    made = copy.stem.rsplit("-", 1)[-1]
    return int(made) if made.isdecimal() else 0


def _apply(connection: sqlite3.Connection, pending: list[Migration], copy: Path | None) -> None:
    name = pending[0].name
    try:
        connection.execute("BEGIN IMMEDIATE")
        for migration in pending:
            name = migration.name
            for statement in _statements(migration.sql):
                _empty_dropped(connection, statement)
                connection.execute(statement)
            connection.execute(
                "INSERT INTO schema_migrations (number, name, sha256) VALUES (?, ?, ?)",
                (migration.number, migration.name, migration.sha256),
            )
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        kept = "" if copy is None else f" A copy from before is {copy}."
        raise MigrationFailed(f"Migration {name} failed: {error}. The database is as before.{kept}") from error


def _empty_dropped(connection: sqlite3.Connection, statement: str) -> None:
    # SQLite keeps what a dropped table held until the statement is over, and in memory here; not what was deleted.
    for _, dropped, *_ in _TABLE_CHANGE.findall(statement):
        if dropped:
            connection.execute(f"DELETE FROM {dropped}")  # noqa: S608  # of our own files


def _statements(sql: str) -> list[str]:
    found, current = [], ""
    for line in sql.splitlines(keepends=True):
        current += line
        if sqlite3.complete_statement(current):
            found.append(current)
            current = ""
    return found
