"""The cost of a turn does not grow with the journal: nothing is read again, and commits stay two."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from kheish.engine import entries as e
from kheish.engine.entries import Recorded
from kheish.engine.journal import MemoryJournal
from tests.engine.world import SESSION, World, text_reply

pytestmark = pytest.mark.anyio

LONG = 10_000


class CountingJournal(MemoryJournal):
    """Counts how often a session's journal is read."""

    loads = 0

    async def load(self, session_id: str) -> Sequence[Recorded]:
        self.loads += 1
        return await super().load(session_id)


async def test_one_more_turn_of_a_long_session_reads_nothing_again_and_takes_two_commits() -> None:
    world = World(lambda request: text_reply("hi"))
    await world.submit()
    await world.finish()
    template = await world.journal.load(SESSION)
    journal = CountingJournal(repeated(template, LONG))
    long = World(lambda request: text_reply("hi"), journal=journal, life="b")

    await long.submit(run_id="run-x")
    await long.finish("run-x")
    assert journal.loads <= 2  # once by the engine, once by this test looking at the end
    journal.loads = 0
    for number in range(20):
        await long.submit(run_id=f"run-y{number}")
        await long.engine.stopped(SESSION, f"run-y{number}")

    assert journal.loads == 0
    assert len(journal.commits) == 2 * 21
    assert len(long.model.requests[-1].messages) > LONG // 4


def repeated(template: Sequence[Recorded], length: int) -> list[Recorded]:
    """The template's run again and again, with ids and offsets of their own."""
    assert isinstance(template[-1].entry, e.RunEnded)
    made: list[Recorded] = []
    while len(made) < length:
        run_id = f"run-{len(made)}"
        made += [
            Recorded(
                session_id=SESSION,
                offset=len(made) + place,
                at_ms=recorded.at_ms,
                run_id=run_id,
                entry=recorded.entry,
            )
            for place, recorded in enumerate(template, start=1)
        ]
    return made
