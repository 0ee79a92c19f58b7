"""SQL of runtime revisions."""

from __future__ import annotations

import sqlite3

from kheish.core.jsonvalue import JsonObject, decode_object, encode
from kheish.core.values import value_class

_INSERT = """
INSERT INTO runtime_revisions (revision, at_ms, setting, source, body)
VALUES (:revision, :at_ms, :setting, :source, :body)
"""
_NEWEST = "SELECT * FROM runtime_revisions ORDER BY revision DESC LIMIT 1"
_LIST = "SELECT * FROM runtime_revisions ORDER BY revision DESC"
_COUNT = "SELECT COUNT(*) AS total FROM runtime_revisions"
_PRUNE = "DELETE FROM runtime_revisions WHERE revision <= :floor"


@value_class(frozen=True, kw_only=True, slots=True)
class Revision:
    """One committed change and all settings after it."""

    revision: int
    at_ms: int
    setting: str
    source: str
    settings: JsonObject

    @classmethod
    def from_row(cls, row: sqlite3.Row) -> Revision:
        return cls(
            revision=row["revision"],
            at_ms=row["at_ms"],
            setting=row["setting"],
            source=row["source"],
            settings=decode_object(row["body"]),
        )

    def to_wire(self) -> JsonObject:
        return {
            "revision": self.revision,
            "at_ms": self.at_ms,
            "setting": self.setting,
            "source": self.source,
            "settings": self.settings,
        }


def append(connection: sqlite3.Connection, revision: Revision, *, keep: int) -> None:
    """Store a revision and drop those beyond the newest ``keep``."""
    fields = {
        "revision": revision.revision,
        "at_ms": revision.at_ms,
        "setting": revision.setting,
        "source": revision.source,
        "body": encode(revision.settings).decode(),
    }
    connection.execute(_INSERT, fields)
    connection.execute(_PRUNE, {"floor": revision.revision - keep})


def newest(connection: sqlite3.Connection) -> Revision | None:
    row = connection.execute(_NEWEST).fetchone()
    return None if row is None else Revision.from_row(row)


def listed(connection: sqlite3.Connection) -> list[Revision]:
    """Every kept revision, newest first."""
    return [Revision.from_row(row) for row in connection.execute(_LIST)]


def count(connection: sqlite3.Connection) -> int:
    total: int = connection.execute(_COUNT).fetchone()["total"]
    return total
