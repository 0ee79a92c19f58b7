"""Who is told of a commit, when and how often."""

from __future__ import annotations

import asyncio

import pytest

from kheish.engine import entries as e
from kheish.engine.entries import Recorded
from kheish.engine.journal import MemoryJournal
from kheish.engine.observing import ObservedJournal
from kheish.engine.ports import Transition
from kheish.engine.state import SessionState

pytestmark = pytest.mark.anyio

DEADLINE_S = 10.0


class Notes:
    """Remembers what it was told, and says when it has been told of so many."""

    def __init__(self, enough: int = 1) -> None:
        self.offsets: list[int] = []
        self.told = asyncio.Event()
        self._enough = enough

    def committed(self, transition: Transition) -> None:
        self.offsets.append(transition.entries[0].offset)
        if len(self.offsets) == self._enough:
            self.told.set()


class Broken:
    def committed(self, transition: Transition) -> None:
        raise RuntimeError("a bug in counting")


class Refusing(MemoryJournal):
    async def append(self, transition: Transition, *, also: object = None, meanwhile: object = None) -> None:
        raise OSError("the disk is full")


def commit(offset: int) -> Transition:
    recorded = Recorded(session_id="s", offset=offset, at_ms=offset, run_id=None, entry=e.Woken())
    session = SessionState(session_id="s", next_offset=offset + 1)
    return Transition(session_id="s", entries=(recorded,), runs=(), session=session)


async def test_observers_know_of_a_commit_when_it_returns_and_onlookers_learn_of_it_by_themselves() -> None:
    near, far = Notes(), Notes(enough=3)
    journal = ObservedJournal(MemoryJournal(), (near,), onlookers=(far,))

    for offset in (1, 2, 3):
        await journal.append(commit(offset))

    assert near.offsets == [1, 2, 3]
    async with asyncio.timeout(DEADLINE_S):
        await far.told.wait()
    assert far.offsets == [1, 2, 3]


async def test_onlookers_can_be_told_at_once_and_are_told_of_each_commit_once() -> None:
    far = Notes()
    journal = ObservedJournal(MemoryJournal(), (), onlookers=(far,))
    await journal.append(commit(1))

    journal.catch_up()
    journal.catch_up()

    assert far.offsets == [1]
    far.told.clear()
    await journal.append(commit(2))
    journal.catch_up()
    assert far.offsets == [1, 2]


async def test_an_onlooker_that_fails_is_counted_and_hides_nothing_from_the_others() -> None:
    far = Notes()
    journal = ObservedJournal(MemoryJournal(), (Broken(),), onlookers=(Broken(), far))

    for offset in (1, 2):
        await journal.append(commit(offset))
    journal.catch_up()

    assert far.offsets == [1, 2]
    assert journal.observer_failures == 4


async def test_nobody_is_told_of_a_commit_that_failed() -> None:
    near, far = Notes(), Notes()
    journal = ObservedJournal(Refusing(), (near,), onlookers=(far,))

    with pytest.raises(OSError, match="full"):
        await journal.append(commit(1))
    journal.catch_up()

    assert near.offsets == far.offsets == []
