"""The time limits of a call: when a wait is cut off, and whose cancellation is whose."""

from __future__ import annotations

import asyncio

import pytest

from kheish.providers.limits import Limits, Patience

pytestmark = pytest.mark.anyio

LONG_S = 60
SHORT_S = 0.02


async def never() -> None:
    await asyncio.Event().wait()


async def passed(seconds: float) -> None:
    """Returns when so much time is over."""
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, over.set)
    await over.wait()


async def test_a_wait_for_nothing_ends_at_the_inactivity_limit_and_leaves_no_trace_of_a_cancellation() -> None:
    task = asyncio.current_task()
    assert task is not None
    with Patience(Limits(inactivity=SHORT_S, whole=LONG_S)) as patience:
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await patience.wait(never())
            assert not patience.exhausted
            assert task.cancelling() == 0


async def test_what_keeps_coming_ends_at_the_limit_of_the_whole_call() -> None:
    async def forever(patience: Patience) -> None:
        while True:
            await patience.wait(asyncio.sleep(0))

    with Patience(Limits(inactivity=LONG_S, whole=SHORT_S)) as patience:
        async with asyncio.timeout(LONG_S):
            with pytest.raises(TimeoutError):
                await forever(patience)
        assert patience.exhausted


async def test_each_arrival_begins_the_inactivity_anew() -> None:
    with Patience(Limits(inactivity=0.2, whole=LONG_S)) as patience:
        for _ in range(6):
            await patience.wait(passed(0.05))


async def test_time_between_waits_is_not_counted_but_the_whole_call_is() -> None:
    with Patience(Limits(inactivity=SHORT_S, whole=LONG_S)) as patience:
        await patience.wait(asyncio.sleep(0))
        await passed(3 * SHORT_S)
        assert await patience.wait(asyncio.sleep(0, "here")) == "here"
    with Patience(Limits(inactivity=LONG_S, whole=SHORT_S)) as patience:
        await passed(3 * SHORT_S)
        with pytest.raises(TimeoutError):
            await patience.wait(never())


@pytest.mark.parametrize("inactivity", [0.0, float(LONG_S)])
async def test_somebody_elses_cancellation_goes_on_also_at_the_moment_of_the_limit(inactivity: float) -> None:
    async def call() -> None:
        with Patience(Limits(inactivity=inactivity, whole=LONG_S)) as patience:
            await patience.wait(never())

    task = asyncio.create_task(call())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_of_what_was_waited_for_is_handed_on_and_takes_the_cancellation_back() -> None:
    async def breaks() -> None:
        try:
            await never()
        except asyncio.CancelledError:
            raise ConnectionError("broke while it was left") from None

    task = asyncio.current_task()
    assert task is not None
    with Patience(Limits(inactivity=SHORT_S, whole=LONG_S)) as patience, pytest.raises(ConnectionError):
        await patience.wait(breaks())
    assert task.cancelling() == 0
