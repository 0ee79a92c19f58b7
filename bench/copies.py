"""Pasts of any length: one finished session of a real daemon, copied inside its database in a few statements."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kheish.store.feed import DEFAULT_CAPACITY_ROWS

_COPIES = """
CREATE TEMP TABLE copies AS
WITH RECURSIVE counted (each) AS (SELECT 0 UNION ALL SELECT each + 1 FROM counted WHERE each + 1 < :sessions * :turns)
SELECT :name || '-' || (each / :turns) AS session_id, 'agent-' || :name || '-' || (each / :turns) AS agent_id,
       'run-' || (:first_number + each) AS run_id, :first_number + each AS number, each % :turns AS turn
  FROM counted
"""
_EACH_SESSION = ("sessions", "credential_grants")
_EACH_RUN = ("journal", "runs", "outputs", "external_actions", "external_action_checkpoints", "feed")
_BY_BUCKET = ("external_action_checkpoints",)
"""Tables without a session: their rows are found by the run."""
_NUMBERS = {
    ("journal", "position"): "t.position + c.turn * :entries",
    ("outputs", "position"): "t.position + c.turn * :entries",
    ("runs", "number"): "c.number",
    ("runs", "first_offset"): "t.first_offset + c.turn * :entries",
    ("runs", "last_offset"): "t.last_offset + c.turn * :entries",
    ("sessions", "journal_len"): "t.journal_len * :turns",
    ("sessions", "input_tokens"): "t.input_tokens * :turns",
    ("sessions", "output_tokens"): "t.output_tokens * :turns",
    ("feed", "id"): "NULL",
}
# Ids of other lengths than those of the original.
_SIZES = """
UPDATE sessions
   SET journal_bytes = (SELECT SUM(LENGTH(CAST(body AS BLOB))) FROM journal WHERE session_id = sessions.session_id)
 WHERE session_id IN (SELECT session_id FROM copies)
"""
_BY_HOUR = """
UPDATE usage_by_hour SET input_tokens = (SELECT SUM(input_tokens) FROM sessions),
                         output_tokens = (SELECT SUM(output_tokens) FROM sessions)
"""


def copy_session(database: Path, template: str, name: str, *, sessions: int, turns: int = 1) -> list[str]:
    """Add sessions `<name>-0` and on, each with ``turns`` times the only run of ``template``; returns their ids.

    Every table that keeps something of a finished run gets its rows, the event feed as many as its window holds. The
    signatures of the copied audit records are those of other records, and would not verify.
    """
    with _opened(database) as connection:
        original = _Original.read(connection, template)
        numbered = connection.execute("SELECT MAX(number) + 1 FROM runs").fetchone()[0]
        fields = {"name": name, "sessions": sessions, "turns": turns, "first_number": numbered}
        connection.execute(_COPIES, fields)
        fields |= {"template": template, "run": original.run_id, "entries": original.entries}
        for table in (*_EACH_SESSION, *_EACH_RUN):
            original.copy(connection, table, fields)
        connection.execute(_SIZES)
        connection.execute(_BY_HOUR)
    return [f"{name}-{number}" for number in range(sessions)]


@contextmanager
def _opened(database: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(database, isolation_level=None)
    try:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        yield connection
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.close()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Original:
    """The session that is copied, and what stands in a copy where its ids stand in it."""

    run_id: str
    entries: int
    replaced: Sequence[tuple[str, str]]
    """Texts, and the SQL of what takes their place in copy ``c``."""

    @classmethod
    def read(cls, connection: sqlite3.Connection, session_id: str) -> _Original:
        fields = {"session_id": session_id}
        ((run_id, agent_id),) = connection.execute(
            "SELECT run_id, agent_id FROM runs WHERE session_id = :session_id", fields
        ).fetchall()
        grants = connection.execute("SELECT grant_id FROM credential_grants WHERE session_id = :session_id", fields)
        entries = connection.execute("SELECT COUNT(*) FROM journal WHERE session_id = :session_id", fields)
        return cls(
            run_id=run_id,
            entries=entries.fetchone()[0],
            replaced=(
                (session_id, "c.session_id"),
                (agent_id, "c.agent_id"),
                (run_id, "c.run_id"),
                ('"call-', "'\"call-' || c.number || '-'"),
                ('"msg-', "'\"msg-' || c.number || '-'"),
                *((grant, f"'{grant}-' || c.session_id") for (grant,) in grants),
            ),
        )

    def copy(self, connection: sqlite3.Connection, table: str, fields: dict[str, object]) -> None:
        wanted = "bucket = :run" if table in _BY_BUCKET else "session_id = :template"
        # Apart: most of these tables have no index that finds the rows of one session.
        connection.execute(f"CREATE TEMP TABLE found AS SELECT * FROM {table} WHERE {wanted}", fields)  # noqa: S608
        reading = connection.execute("SELECT * FROM found")
        columns, found = [each[0] for each in reading.description], reading.fetchall()
        values = [
            _NUMBERS.get((table, name)) or self._text(f"t.{name}", [row[place] for row in found])
            for place, name in enumerate(columns)
        ]
        chosen = "c.turn = 0" if table in _EACH_SESSION else "1"
        if table == "feed":
            chosen = f"c.number > (SELECT MAX(number) FROM copies) - {DEFAULT_CAPACITY_ROWS // len(found)}"  # noqa: S608
        connection.execute(
            f"INSERT INTO {table} ({', '.join(columns)}) SELECT {', '.join(values)}"  # noqa: S608
            f" FROM copies AS c CROSS JOIN found AS t WHERE {chosen} ORDER BY c.number, t.rowid",
            fields,
        )
        connection.execute("DROP TABLE found")

    def _text(self, column: str, found: Sequence[object]) -> str:
        """The column with the ids of the copy; only those that occur in it cost anything."""
        texts = [value for value in found if isinstance(value, str)]
        for id_, by in self.replaced:
            if any(id_ in text for text in texts):
                column = f"REPLACE({column}, '{id_}', {by})"
        return column
