"""A damaged journal closes its own session, says where, and touches no other."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from kheish.engine.entries import RunStatus
from kheish.engine.journal import DatabaseJournal, JournalDamaged
from kheish.providers.protocol import ModelReply, ModelRequest
from kheish.store.database import SqliteDatabase, Transaction
from kheish.store.migrations import migrate
from tests.engine.world import DEADLINE_S, SESSION, World, call_reply, submission, text_reply, turns_so_far

pytestmark = pytest.mark.anyio

DAMAGES = {
    "text that is not UTF-8": "UPDATE journal SET body = CAST(X'7B22FF227D' AS TEXT) WHERE position = 3",
    "half a row": "UPDATE journal SET body = substr(body, 1, 20) WHERE position = 3",
    "a number for a body": "UPDATE journal SET body = 7 WHERE position = 3",
    "an unknown type": "UPDATE journal SET type = CAST(X'FF' AS TEXT) WHERE position = 3",
    "a version that is no number": "UPDATE journal SET version = 'new' WHERE position = 3",
    "a time that is no number": "UPDATE journal SET at_ms = 'noon' WHERE position = 3",
    "fields of the wrong kind": "UPDATE journal SET body = json_set(body, '$.usage', json('{\"input_tokens\":\"x\"}'))"
    " WHERE position = 3",
    "a missing entry": "DELETE FROM journal WHERE position = 3",
}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[SqliteDatabase]:
    made = SqliteDatabase(tmp_path / "kheish.db")
    made.run_offline(migrate)
    yield made
    made.close()


def model(request: ModelRequest) -> ModelReply:
    return call_reply(("touch", {"n": 1})) if turns_so_far(request.messages) == 0 else text_reply("done")


def world(database: SqliteDatabase, life: str) -> World:
    return World(model, journal=DatabaseJournal(database, ()), life=life)  # type: ignore[arg-type]  # its twin


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
async def test_a_damaged_session_answers_with_the_place_and_the_others_go_on(
    database: SqliteDatabase, damage: str
) -> None:
    first = world(database, "a")
    first.touch.hold = asyncio.Event()
    for session_id in (SESSION, "other"):
        first.touch.started.clear()
        await first.engine.transition(session_id, submission("go", f"run-{session_id}"))
        await asyncio.wait_for(first.touch.started.wait(), DEADLINE_S)
    await first.engine.drain(0)

    def break_it(transaction: Transaction) -> None:
        cursor = transaction.connection.execute(f"{damage} AND session_id = '{SESSION}'")
        assert cursor.rowcount == 1

    await database.write(break_it)

    second = world(database, "b")
    await asyncio.wait_for(second.engine.recover([SESSION, "other"]), DEADLINE_S)
    with pytest.raises(JournalDamaged) as refused:
        await second.engine.transition(SESSION, submission("more", "run-9"))
    assert (refused.value.session_id, refused.value.position) == (SESSION, 3)
    await asyncio.wait_for(second.engine.stopped("other", "run-other"), DEADLINE_S)
    last = (await second.journal.load("other"))[-1]
    assert last.entry.status is RunStatus.COMPLETED  # type: ignore[union-attr]  # a run that stopped ends its journal
