"""The journal on the database, and an honest in-memory twin for property tests."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from kheish.core.problems import Problem
from kheish.engine.codec import VERSION, decode_entry, type_name
from kheish.engine.entries import Recorded
from kheish.engine.ports import Also, Meanwhile, Projection, Transition
from kheish.store.database import Database, Transaction
from kheish.store.rows import insertion

_INSERT = insertion("journal (session_id, position, run_id, at_ms, type, version, body)")
_LOAD = """
SELECT position, run_id, at_ms, CAST(type AS BLOB) AS type, version, CAST(body AS BLOB) AS body FROM journal
 WHERE session_id = :session_id ORDER BY position
"""
# Texts are read as bytes: one that is not UTF-8 is this row's damage, not the query's.
_LOAD_RUN = """
SELECT position, run_id, at_ms, CAST(type AS BLOB) AS type, version, CAST(body AS BLOB) AS body FROM journal
 WHERE session_id = :session_id AND position BETWEEN :first AND :last AND run_id = :run_id ORDER BY position
"""


class JournalDamaged(Problem):
    """An entry of this session's journal cannot be read."""

    domain, code, status = "sessions", "journal_damaged", 500

    def __init__(self, session_id: str, position: int) -> None:
        self.session_id = session_id
        self.position = position
        super().__init__(
            f"Entry {position} of the journal of session {session_id!r} is damaged. "
            "Other sessions are not affected; restore a backup to get this one back."
        )


def row_to_entry(session_id: str, row: sqlite3.Row) -> Recorded:
    """Rebuild one recorded entry.

    Raises:
        JournalDamaged: the row cannot be read.
    """
    try:
        at_ms, run_id = row["at_ms"], row["run_id"]
        if not isinstance(at_ms, int) or not isinstance(run_id, str | None):
            raise ValueError("a column has the wrong type")
        entry = decode_entry(row["type"].decode(), row["version"], row["body"])
    except (ValueError, TypeError, AttributeError) as error:
        raise JournalDamaged(session_id, row["position"]) from error
    return Recorded(session_id=session_id, offset=row["position"], at_ms=at_ms, run_id=run_id, entry=entry)


class DatabaseJournal:
    """Entries, projections and feed events of one transition in one transaction."""

    def __init__(self, database: Database, projections: Sequence[Projection]) -> None:
        self._database = database
        self._projections = tuple(projections)

    async def append(
        self, transition: Transition, *, also: Also | None = None, meanwhile: Meanwhile | None = None
    ) -> None:
        rows = [
            (
                recorded.session_id,
                recorded.offset,
                recorded.run_id,
                recorded.at_ms,
                type_name(recorded.entry),
                VERSION,
                body.decode(),
            )
            for recorded, body in zip(transition.entries, transition.bodies, strict=True)
        ]

        def unit(transaction: Transaction) -> None:
            transaction.begin(transition.session_id)
            # First: a replayed idempotency key refuses the whole transition before anything is written.
            if also is not None:
                also(transaction)
            transaction.add(_INSERT, rows)
            for projection in self._projections:
                projection.apply(transaction, transition)

        await self._database.write(unit, meanwhile=meanwhile)

    async def load(self, session_id: str) -> Sequence[Recorded]:
        def query(connection: sqlite3.Connection) -> list[Recorded]:
            rows = connection.execute(_LOAD, {"session_id": session_id}).fetchall()
            found = [row_to_entry(session_id, row) for row in rows]
            for expected, recorded in enumerate(found, start=1):
                if recorded.offset != expected:
                    raise JournalDamaged(session_id, expected)
            return found

        return await self._database.read(query)

    async def load_run(self, session_id: str, run_id: str, first: int, last: int) -> Sequence[Recorded]:
        """The entries of one run, found through its first and last offset."""
        fields = {"session_id": session_id, "run_id": run_id, "first": first, "last": last}

        def query(connection: sqlite3.Connection) -> list[Recorded]:
            return [row_to_entry(session_id, row) for row in connection.execute(_LOAD_RUN, fields)]

        return await self._database.read(query)


class MemoryJournal:
    """A complete journal that forgets on exit; it refuses what the real one refuses."""

    def __init__(self, entries: Sequence[Recorded] = ()) -> None:
        self._sessions: dict[str, list[Recorded]] = {}
        self.commits: list[tuple[Recorded, ...]] = []
        for recorded in entries:
            self._sessions.setdefault(recorded.session_id, []).append(recorded)

    async def append(
        self, transition: Transition, *, also: Also | None = None, meanwhile: Meanwhile | None = None
    ) -> None:
        if also is not None:
            raise ValueError("the in-memory journal has no tables for an extra write")
        journal = self._sessions.setdefault(transition.session_id, [])
        expected = journal[-1].offset + 1 if journal else 1
        if transition.entries[0].offset != expected:
            raise ValueError(f"offset {transition.entries[0].offset} where {expected} was expected")
        if meanwhile is not None:
            meanwhile()
        # Through the codec, so that what is tested is what a restart would read.
        journal.extend(
            Recorded(
                session_id=recorded.session_id,
                offset=recorded.offset,
                at_ms=recorded.at_ms,
                run_id=recorded.run_id,
                entry=decode_entry(type_name(recorded.entry), VERSION, body),
            )
            for recorded, body in zip(transition.entries, transition.bodies, strict=True)
        )
        self.commits.append(transition.entries)

    async def load(self, session_id: str) -> Sequence[Recorded]:
        return tuple(self._sessions.get(session_id, ()))
