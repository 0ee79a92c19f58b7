"""Outputs are dispatched once: rows and feed events over a restart at every prefix of a journal in the database."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from kheish.core.jsonvalue import decode_object
from kheish.engine import entries as e
from kheish.engine.entries import OnInDoubt, Recorded
from kheish.engine.journal import DatabaseJournal
from kheish.engine.ports import Transition
from kheish.engine.state import SessionState, advance, apply
from kheish.providers.protocol import ModelReply, ModelRequest
from kheish.runs.store import RunsProjection
from kheish.store.database import SqliteDatabase
from kheish.store.feed import Feed
from kheish.store.migrations import migrate
from tests.engine.world import SESSION, World, call_reply, text_reply, turns_so_far

pytestmark = pytest.mark.anyio


def model(request: ModelRequest) -> ModelReply:
    match turns_so_far(request.messages):
        case 0:
            return call_reply(("note", {"n": 1}), ("touch", {"n": 2}), ("note", {"n": 3}))
        case 1:
            return call_reply(("note", {"n": 4}))
        case _:
            return text_reply("done")


@contextmanager
def opened() -> Iterator[tuple[SqliteDatabase, DatabaseJournal]]:
    database = SqliteDatabase(None)
    try:
        database.run_offline(migrate)
        feed = Feed(database)
        database.run_offline(feed.load)
        database.attach(feed)
        yield database, DatabaseJournal(database, (RunsProjection(feed),))
    finally:
        database.close()


async def replay(journal: DatabaseJournal, entries: Sequence[Recorded]) -> None:
    """Write the entries as the daemon did, one commit each."""
    session = SessionState(session_id=SESSION)
    for recorded in entries:
        assert recorded.run_id is not None
        before, session = session.run(recorded.run_id), advance(session, recorded)
        run = session.run(recorded.run_id) or (None if before is None else apply(before, recorded))
        assert run is not None
        await journal.append(Transition(session_id=SESSION, entries=(recorded,), runs=(run,), session=session))


def dispatched(connection: sqlite3.Connection) -> tuple[list[tuple[str, str]], list[str]]:
    """Call id and content of every output row, in order, and the content of every output event."""
    rows = connection.execute("SELECT call_id, body FROM outputs ORDER BY position").fetchall()
    events = connection.execute("SELECT data FROM feed WHERE type = 'output' ORDER BY id").fetchall()
    told = [decode_object(row["data"])["output"] for row in events]
    contents = [str(output["content"]) for output in told if isinstance(output, dict)]
    return [(row["call_id"], str(decode_object(row["body"])["content"])) for row in rows], contents


@pytest.mark.parametrize("on_in_doubt", OnInDoubt)
async def test_a_run_cut_at_any_entry_has_each_output_once_as_a_row_and_once_on_the_feed(
    on_in_doubt: OnInDoubt,
) -> None:
    with opened() as (database, journal):
        first = World(model, journal=journal)  # type: ignore[arg-type]  # its twin
        await first.submit(on_in_doubt=on_in_doubt)
        await first.finish()
        entries = list(await journal.load(SESSION))
        rows, told = await database.read(dispatched)
        assert [content for _, content in rows] == told == ["noted", "noted", "noted", "done"]

    for cut in range(1, len(entries) + 1):
        with opened() as (database, journal):
            await replay(journal, entries[:cut])
            world = World(model, journal=journal, life="b")  # type: ignore[arg-type]  # its twin
            await world.engine.recover([SESSION])
            while (await world.quiet()).active is not None:
                await world.allow_all()
            after = await journal.load(SESSION)
            emitted = [
                one.entry.call_id for one in after if isinstance(one.entry, e.ToolFinished) and one.entry.effects
            ]

            rows, told = await database.read(dispatched)
            assert [call_id for call_id, _ in rows] == [*emitted, ""]
            assert [content for _, content in rows] == told == ["noted", "noted", "noted", "done"]
