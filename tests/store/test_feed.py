from __future__ import annotations

import asyncio
import json
import sqlite3
from pathlib import Path

import pytest

from kheish.core.problems import StoreUnavailable
from kheish.store.database import SqliteDatabase, Transaction
from kheish.store.events import FeedEvent
from kheish.store.feed import Feed
from kheish.store.migrations import migrate
from tests.fakes.watching import Each

pytestmark = pytest.mark.anyio


async def emit(database: SqliteDatabase, feed: Feed, count: int, *, session_id: str = "s", run_id: str = "r") -> None:
    def unit(transaction: Transaction) -> None:
        for number in range(count):
            feed.append(transaction, type="trace", session_id=session_id, run_id=run_id, data={"n": number})

    await database.write(unit)


async def take(feed: Feed, count: int, **scope: object) -> list[FeedEvent]:
    async with feed.subscribe(**scope) as watch:  # type: ignore[arg-type]
        events = Each(watch)
        return [await asyncio.wait_for(anext(events), 5) for _ in range(count)]


async def test_ids_increase_and_a_cursor_gets_only_what_came_later(database: SqliteDatabase, feed: Feed) -> None:
    await emit(database, feed, 5)

    events = await take(feed, 3, cursor=2)

    assert [event.id for event in events] == [3, 4, 5]


async def test_replay_and_live_join_without_a_gap_or_a_duplicate(database: SqliteDatabase, feed: Feed) -> None:
    await emit(database, feed, 3)

    async with feed.subscribe(cursor=1) as watch:
        events = Each(watch)
        await emit(database, feed, 2)
        got = [await asyncio.wait_for(anext(events), 5) for _ in range(4)]

    assert [event.id for event in got] == [2, 3, 4, 5]


async def test_without_a_cursor_a_stream_is_live_only(database: SqliteDatabase, feed: Feed) -> None:
    await emit(database, feed, 3)

    async with feed.subscribe() as watch:
        events = Each(watch)
        await emit(database, feed, 1)
        event = await asyncio.wait_for(anext(events), 5)

    assert event.id == 4


async def test_a_cursor_beyond_the_newest_id_is_clamped(database: SqliteDatabase, feed: Feed) -> None:
    await emit(database, feed, 1)

    async with feed.subscribe(cursor=999) as watch:
        events = Each(watch)
        await emit(database, feed, 1)
        event = await asyncio.wait_for(anext(events), 5)

    assert event.id == 2


async def test_a_session_stream_never_shows_another_session(database: SqliteDatabase, feed: Feed) -> None:
    await emit(database, feed, 2, session_id="a", run_id="r1")
    await emit(database, feed, 2, session_id="b", run_id="r2")

    events = await take(feed, 2, cursor=0, session_id="b")

    assert [event.session_id for event in events] == ["b", "b"]


async def test_a_full_window_gives_one_exact_gap_then_the_retained_events(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "kheish.db")
    database.run_offline(migrate)
    feed = Feed(database, capacity=4)
    database.attach(feed)
    for _ in range(20):
        await emit(database, feed, 1)

    gap, *rest = await take(feed, 5, cursor=1)

    assert json.loads(gap.data) == {
        "type": "stream_gap",
        "skipped": 15,
        "resume_after_id": "16",
        "reason": "replay_window",
        "scope": "global",
        "skipped_is_estimate": False,
    }
    assert [event.id for event in rest] == [17, 18, 19, 20]
    database.close()


@pytest.mark.parametrize("limit", [100, 200_000])
async def test_the_window_is_bounded_in_bytes_too_also_after_a_restart(tmp_path: Path, limit: int) -> None:
    """The store as a whole is heavier than one of the limits and lighter than the other."""

    def append(transaction: Transaction) -> None:
        # Half as many characters as bytes.
        feed.append(transaction, type="trace", session_id="s", run_id="r", data={"n": "é" * (limit // 20)})

    path = tmp_path / "kheish.db"
    for _ in range(2):
        database = SqliteDatabase(path)
        database.run_offline(migrate)
        feed = Feed(database, capacity=20, max_bytes=limit)
        database.run_offline(feed.load)
        database.attach(feed)
        for _ in range(20):
            await database.write(append)
        kept = await database.read(
            lambda reader: [len(row["data"].encode()) for row in reader.execute("SELECT * FROM feed")]
        )
        database.close()

        assert sum(kept) <= limit < sum(kept) + kept[0]


async def test_the_newest_event_stays_however_large_so_that_no_id_is_given_out_twice(tmp_path: Path) -> None:
    path = tmp_path / "kheish.db"
    for start in range(3):
        database = SqliteDatabase(path)
        database.run_offline(migrate)
        feed = Feed(database, capacity=1, max_bytes=1)
        database.run_offline(feed.load)
        database.attach(feed)
        assert feed.tail_id == 2 * start
        await emit(database, feed, 1)
        await emit(database, feed, 1)
        kept = await database.read(lambda reader: [row["id"] for row in reader.execute("SELECT id FROM feed")])
        database.close()

        assert kept == [2 * start + 2]


async def test_a_cursor_survives_a_restart_without_a_gap(tmp_path: Path) -> None:
    path = tmp_path / "kheish.db"
    database = SqliteDatabase(path)
    database.run_offline(migrate)
    feed = Feed(database)
    database.attach(feed)
    await emit(database, feed, 3)
    database.close()

    database = SqliteDatabase(path)
    feed = Feed(database)
    database.run_offline(feed.load)
    database.attach(feed)
    await emit(database, feed, 1)

    assert [event.id for event in await take(feed, 2, cursor=2)] == [3, 4]
    database.close()


async def test_a_slow_reader_gets_a_live_lag_gap_and_the_others_get_everything(
    database: SqliteDatabase, feed: Feed
) -> None:
    async with feed.subscribe() as slow_watch, feed.subscribe() as fast_watch:
        slow, fast = Each(slow_watch), Each(fast_watch)
        seen = 0
        for _ in range(30):
            await emit(database, feed, 100)
            for _ in range(100):
                await asyncio.wait_for(anext(fast), 5)
                seen += 1
        gap = await asyncio.wait_for(anext(slow), 5)
        after = await asyncio.wait_for(anext(slow), 5)

    body = json.loads(gap.data)
    assert seen == 3000
    assert body["reason"] == "live_lag"
    assert after.id == int(body["resume_after_id"]) + 1
    assert int(feed.status()["stream_lagged_event_count"]) == body["skipped"]  # type: ignore[arg-type]


async def test_live_only_events_have_no_id_and_are_never_stored(database: SqliteDatabase, feed: Feed) -> None:
    async with feed.subscribe(run_id="r") as watch:
        events = Each(watch)
        feed.publish_live("output_delta", session_id="s", run_id="r", data={"text": "hi"})
        live = await asyncio.wait_for(anext(events), 5)
    await emit(database, feed, 1)

    assert (live.id, live.data) == (None, b'{"text":"hi"}')
    assert [event.type for event in await take(feed, 1, cursor=0)] == ["trace"]


async def test_an_event_of_a_refused_unit_is_never_seen(database: SqliteDatabase, feed: Feed) -> None:
    def refuse(transaction: Transaction) -> None:
        feed.append(transaction, type="trace", session_id="s", run_id="r", data={"n": "lost"})
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await database.write(refuse)
    await emit(database, feed, 1)

    (event,) = await take(feed, 1, cursor=0)
    assert json.loads(event.data) == {"n": 0}


async def test_a_backlog_lost_during_the_replay_is_told_after_the_replay(database: SqliteDatabase, feed: Feed) -> None:
    await emit(database, feed, 1200)

    async with feed.subscribe(cursor=1) as watch:
        events = Each(watch)
        first = [await asyncio.wait_for(anext(events), 5) for _ in range(10)]
        for _ in range(15):
            await emit(database, feed, 100)
        replayed = [await asyncio.wait_for(anext(events), 5) for _ in range(1199 - 10)]
        gap = json.loads((await asyncio.wait_for(anext(events), 5)).data)
        rest = [await asyncio.wait_for(anext(events), 5) for _ in range(1500 - gap["skipped"])]

    assert [event.id for event in first + replayed] == list(range(2, 1201))
    assert (gap["reason"], gap["resume_after_id"]) == ("live_lag", str(1200 + gap["skipped"]))
    assert [event.id for event in rest] == list(range(1201 + gap["skipped"], 2701))


async def test_events_that_leave_the_window_during_a_slow_replay_are_a_gap(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "kheish.db")
    database.run_offline(migrate)
    feed = Feed(database, capacity=2000)
    database.attach(feed)
    await emit(database, feed, 1500)

    ids: list[int] = []
    skipped = 0
    async with feed.subscribe(cursor=1) as watch:
        events = Each(watch)
        ids.append((await asyncio.wait_for(anext(events), 5)).id or 0)
        for _ in range(30):
            await emit(database, feed, 100)
        while ids[-1] < 4500:
            event = await asyncio.wait_for(anext(events), 5)
            if event.type == "stream_gap":
                body = json.loads(event.data)
                skipped += body["skipped"]
                assert int(body["resume_after_id"]) == ids[-1] + body["skipped"]
                ids.append(int(body["resume_after_id"]))
            else:
                assert event.id == ids[-1] + 1
                ids.append(event.id)

    assert skipped > 0
    database.close()


async def test_a_slow_reader_of_large_events_holds_a_bounded_number_of_bytes(
    database: SqliteDatabase, feed: Feed
) -> None:
    large: dict[str, object] = {"text": "x" * 1_000_000}
    async with feed.subscribe() as slow:
        for _ in range(100):
            feed.publish_live("trace", session_id="s", run_id="r", data=large)
        slow.close()
        held = [event async for event in Each(slow)]

    assert 0 < sum(len(event.data) for event in held) < 12_000_000


async def test_an_event_is_offered_only_to_those_whose_scope_admits_it(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offered(event: FeedEvent) -> int:
        raise AssertionError("this watcher wants something else")

    async with (
        feed.subscribe() as everything,
        feed.subscribe(session_id="s") as session,
        feed.subscribe(run_id="r") as run,
        feed.subscribe(session_id="s", run_id="r") as both,
        feed.subscribe(session_id="other") as other_session,
        feed.subscribe(run_id="other") as other_run,
        feed.subscribe(session_id="other", run_id="r") as mixed,
    ):
        for stranger in (other_session, other_run, mixed):
            monkeypatch.setattr(stranger, "offer", offered)
        feed.publish_live("output_delta", session_id="s", run_id="r", data={"text": "hi"})
        got = [await asyncio.wait_for(anext(watcher), 5) for watcher in (everything, session, run, both)]
        monkeypatch.undo()

    frames = [event.frame for batch in got for event in batch]
    assert frames == [b'event: output_delta\ndata: {"text":"hi"}\n\n'] * 4
    assert len({id(frame) for frame in frames}) == 1


async def test_an_event_without_session_or_run_reaches_each_watcher_once(feed: Feed) -> None:
    async with feed.subscribe() as everything, feed.subscribe(session_id="s") as session:
        feed.publish([FeedEvent(id=1, type="runtime_updated", session_id=None, run_id=None, data=b"{}")])
        session.nudge()

        assert [event.id for event in await asyncio.wait_for(anext(everything), 5)] == [1]
        assert await asyncio.wait_for(anext(session), 5) == []


async def test_an_event_nobody_watches_is_not_even_encoded(feed: Feed) -> None:
    async with feed.subscribe(run_id="another"):
        feed.publish_live("output_delta", session_id="s", run_id="r", data={"text": object()})


async def test_what_waits_comes_in_one_batch_of_bounded_size(database: SqliteDatabase, feed: Feed) -> None:
    async with feed.subscribe() as watcher:
        await emit(database, feed, 3)
        assert [event.id for event in await asyncio.wait_for(anext(watcher), 5)] == [1, 2, 3]
        for _ in range(3):
            feed.publish_live("trace", session_id="s", run_id="r", data={"text": "x" * 40_000})
        sizes = [len(await asyncio.wait_for(anext(watcher), 5)) for _ in range(3)]

    assert sizes == [1, 1, 1]


async def test_a_nudge_ends_a_wait_with_an_empty_batch_and_only_a_wait(feed: Feed) -> None:
    async with feed.subscribe() as watcher:
        waiting = asyncio.ensure_future(anext(watcher))
        await asyncio.sleep(0)
        watcher.nudge()
        assert await asyncio.wait_for(waiting, 5) == []
        feed.publish_live("trace", session_id="s", run_id="r", data={})
        watcher.nudge()
        assert len(await asyncio.wait_for(anext(watcher), 5)) == 1
        watcher.close()
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(anext(watcher), 5)


async def test_watchers_that_left_leave_nothing_behind(feed: Feed) -> None:
    for number in range(3):
        async with feed.subscribe(run_id=f"run-{number}"), feed.subscribe(run_id=f"run-{number}"):
            assert feed.status()["subscriber_count"] == 2

    assert feed.status()["subscriber_count"] == 0
    assert feed._watchers == {}


async def test_what_a_failed_commit_trimmed_is_still_in_the_window(tmp_path: Path) -> None:
    class Failing(SqliteDatabase):
        broken = False

        def _store_events(self, group: object) -> None:
            super()._store_events(group)  # type: ignore[arg-type]  # the type of a unit is the store's own
            if self.broken:
                raise sqlite3.OperationalError("disk I/O error")

    database = Failing(tmp_path / "kheish.db")
    database.run_offline(migrate)
    feed = Feed(database, capacity=4)
    database.run_offline(feed.load)
    database.attach(feed)
    await emit(database, feed, 8)
    before = feed.status()
    database.broken = True
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            await emit(database, feed, 8)
    database.broken = False

    assert feed.status() == before
    await emit(database, feed, 1)
    assert [event.id for event in await take(feed, 4, cursor=5)] == [6, 7, 8, 9]
    database.close()


async def test_an_event_whose_type_is_no_text_is_a_gap_and_the_others_come(
    database: SqliteDatabase, feed: Feed
) -> None:
    await emit(database, feed, 3)
    damage = "UPDATE feed SET type = x'ff' WHERE id = 2"
    await database.write(lambda transaction: transaction.connection.execute(damage))

    assert [event.type for event in await take(feed, 3, cursor=0)] == ["trace", "stream_gap", "trace"]
