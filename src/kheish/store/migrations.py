"""Numbered, forward-only schema migrations. A file is never edited once it has shipped."""

from __future__ import annotations

import hashlib
import sqlite3
from dataclasses import dataclass
from importlib import resources

from kheish.core.problems import Problem

_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    number INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    sha256 TEXT NOT NULL
)
"""


class SchemaMismatch(Problem):
    """The database was written by a different release."""

    domain, code, status = "storage", "schema_mismatch", 500


@dataclass(frozen=True, kw_only=True, slots=True)
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


def migrate(connection: sqlite3.Connection, migrations: tuple[Migration, ...] | None = None) -> list[str]:
    """Apply what is missing, one transaction each; returns the names applied.

    Raises:
        SchemaMismatch: the database has a migration this release does not know, or one with other content.
    """
    known = shipped() if migrations is None else migrations
    connection.execute(_TABLE)
    rows = connection.execute("SELECT number, name, sha256 FROM schema_migrations").fetchall()
    applied = {row["number"]: row for row in rows}
    unknown = sorted(set(applied) - {migration.number for migration in known})
    if unknown:
        raise SchemaMismatch(
            f"The database has migration {unknown[-1]}, which this release does not know. Start a newer release."
        )
    done = []
    for migration in known:
        if migration.number in applied:
            if applied[migration.number]["sha256"] != migration.sha256:
                raise SchemaMismatch(f"Migration {migration.name} was changed after it had been applied.")
            continue
        _apply(connection, migration)
        done.append(migration.name)
    return done


def _apply(connection: sqlite3.Connection, migration: Migration) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in _statements(migration.sql):
            connection.execute(statement)
        connection.execute(
            "INSERT INTO schema_migrations (number, name, sha256) VALUES (?, ?, ?)",
            (migration.number, migration.name, migration.sha256),
        )
    except sqlite3.Error:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _statements(sql: str) -> list[str]:
    found, current = [], ""
    for line in sql.splitlines(keepends=True):
        current += line
        if sqlite3.complete_statement(current):
            found.append(current)
            current = ""
    return found
