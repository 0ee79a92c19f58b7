"""The event feed: every change a client can watch, as rows with one increasing id, and its live subscribers."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType

from kheish.core.jsonvalue import JsonObject, encode
from kheish.core.values import value_class
from kheish.store.database import Database, Transaction
from kheish.store.events import Change, FeedEvent
from kheish.store.rows import insertion

DEFAULT_CAPACITY_ROWS = 100_000
MAX_BYTES = 256 * 1024 * 1024
_TRIM_EVERY_ROWS = 512
"""Trimming each commit would cost every run; the window may be this much longer than its limit."""
_SUBSCRIBER_BACKLOG = 1024
"""Events a slow reader may fall behind before it gets a `live_lag` gap instead."""
_BACKLOG_BYTES = 8 * 1024 * 1024
"""The same in bytes: a few large events must not hold more memory than many small ones."""
_REPLAY_PAGE = 500
_BATCH_BYTES = 64 * 1024
"""What a reader takes at once has left the backlog's bound, and waits for the network elsewhere."""

_INSERT = insertion("feed (type, session_id, run_id, data)")
_REPLAY = """
SELECT id, type, session_id, run_id,
       CASE WHEN typeof(type) = 'text' AND typeof(data) = 'text' AND json_valid(data) THEN data ELSE '' END AS data
  FROM feed
 WHERE id > :after AND id <= :until
   AND (:session_id IS NULL OR session_id = :session_id)
   AND (:run_id IS NULL OR run_id = :run_id)
 ORDER BY id LIMIT :limit
"""
_BOUNDS = """
SELECT COALESCE((SELECT MIN(id) FROM feed), 0) AS oldest, COALESCE((SELECT MAX(id) FROM feed), 0) AS newest
"""
_STORE_BYTES = "SELECT page_count * page_size AS bytes FROM pragma_page_count, pragma_page_size"
_BYTES = "SELECT COALESCE(SUM(LENGTH(CAST(data AS BLOB))), 0) AS bytes FROM feed"
_TRIM = "DELETE FROM feed WHERE id <= :floor"
_BYTES_UP_TO = f"{_BYTES} WHERE id <= :floor"
_OLDEST = "SELECT COALESCE(MIN(id), 0) AS oldest FROM feed"
_BYTES_FLOOR = """
SELECT COALESCE(MAX(id), 0) AS floor FROM (
    SELECT id, SUM(LENGTH(CAST(data AS BLOB))) OVER (ORDER BY id DESC) AS total FROM feed
) WHERE total > :max_bytes
"""


_Key = tuple[str | None, str | None]
"""Of a scope: session and run; None admits any."""


@value_class(frozen=True, kw_only=True, slots=True)
class _Scope:
    session_id: str | None
    run_id: str | None

    @property
    def key(self) -> _Key:
        return self.session_id, self.run_id

    @property
    def name(self) -> str:
        if self.run_id is not None:
            return "run"
        return "global" if self.session_id is None else "session"


@value_class(frozen=True, kw_only=True, slots=True)
class _Window:
    """What is stored of the feed, as of a commit."""

    oldest_id: int = 0
    bytes: int = 0
    """Of the window, or no less than that while it is not weighed."""
    weighed: bool = False
    since_trim: int = 0
    """Rows."""
    evicted: int = 0


class Feed:
    """Appends inside a write unit, publishes after its commit, replays from rows."""

    def __init__(
        self, database: Database, *, capacity: int = DEFAULT_CAPACITY_ROWS, max_bytes: int = MAX_BYTES
    ) -> None:
        self._database = database
        self._capacity = capacity
        self._max_bytes = max_bytes
        self._watchers: dict[_Key, set[Subscription]] = {}
        """By scope, so that an event costs those who want it and nobody else."""
        self.tail_id = 0
        """The newest id a subscriber can have seen."""
        self._window = self._written = _Window()
        """As of the last commit, and of the one that is under way: a commit may fail."""
        self._gaps = self._lagged = 0

    def load(self, connection: sqlite3.Connection) -> None:
        """Read the window's bounds; called once at boot on the writer's connection."""
        row = connection.execute(_BOUNDS).fetchone()
        self.tail_id = row["newest"]
        # Weighing the window reads all of it. The whole store is no lighter, and mostly light enough.
        total: int = connection.execute(_STORE_BYTES).fetchone()["bytes"]
        self._window = self._weighed_if_full(connection, _Window(oldest_id=row["oldest"], bytes=total))

    def append(
        self, transaction: Transaction, *, type: str, session_id: str | None, run_id: str | None, data: JsonObject
    ) -> None:
        """Store one event in this commit; subscribers get it once the commit is durable."""
        change = Change(type=type, session_id=session_id, run_id=run_id, data=encode(data))
        transaction.published.append(change)

    def store(self, connection: sqlite3.Connection, changes: Sequence[Change]) -> list[FeedEvent]:
        """Write the changes of one commit in one go; returns them with their ids."""
        rows = [(one.type, one.session_id, one.run_id, one.data.decode()) for one in changes]
        newest = _INSERT.run(connection, rows)
        first, before = newest - len(changes) + 1, self._window
        self._written = _Window(
            oldest_id=before.oldest_id or first,
            bytes=before.bytes + sum(len(one.data) for one in changes),
            weighed=before.weighed,
            since_trim=before.since_trim + len(changes),
            evicted=before.evicted,
        )
        if self._written.since_trim >= min(_TRIM_EVERY_ROWS, self._capacity):
            self._written = self._trimmed(connection, replace(self._written, since_trim=0), newest)
        return [
            FeedEvent(id=id, type=one.type, session_id=one.session_id, run_id=one.run_id, data=one.data)
            for id, one in enumerate(changes, start=first)
        ]

    def stored(self) -> None:
        """The commit of what was stored last is durable."""
        self._window = self._written

    def publish(self, events: list[FeedEvent]) -> None:
        """Hand committed events to subscribers; called on the event loop in id order."""
        self.tail_id = events[-1].id or self.tail_id
        if self._watchers:
            for event in events:
                self._offer(event, self._watching(event.session_id, event.run_id))

    def publish_live(self, type: str, *, session_id: str | None, run_id: str | None, data: dict[str, object]) -> None:
        """Send an event that is never stored and has no id; slow readers may miss it."""
        watchers = self._watching(session_id, run_id)
        if watchers:
            event = FeedEvent(id=None, type=type, session_id=session_id, run_id=run_id, data=encode(data))
            self._offer(event, watchers)

    def subscribe(
        self, *, cursor: int | None = None, session_id: str | None = None, run_id: str | None = None
    ) -> Subscription:
        """Watch the feed from after ``cursor`` (None: from now on). Use as an async context manager."""
        return Subscription(self, _Scope(session_id=session_id, run_id=run_id), cursor)

    def status(self) -> JsonObject:
        """The `events` block of the status snapshot; ids are decimal strings."""
        window = self._window
        retained = self.tail_id - window.oldest_id + 1 if window.oldest_id else 0
        block: JsonObject = {
            "history_capacity": self._capacity,
            "retained_event_count": retained,
            "subscriber_count": sum(map(len, self._watchers.values())),
            "next_event_id": str(self.tail_id + 1),
            "tail_event_id_cursor": str(self.tail_id),
            "replay_buffer_utilization_percent": min(100, round(100 * retained / self._capacity)),
            "evicted_event_count": window.evicted,
            "replay_gap_count": self._gaps,
            "stream_lagged_event_count": self._lagged,
            "scope_eviction_floor_id": str(max(window.oldest_id - 1, 0)),
            "evicted_session_scope_count": 0,
            "evicted_run_scope_count": 0,
        }
        if retained:
            block["oldest_event_id"] = str(window.oldest_id)
            block["newest_event_id"] = str(self.tail_id)
        return block

    def _trimmed(self, connection: sqlite3.Connection, window: _Window, newest: int) -> _Window:
        floor = newest - self._capacity
        window = self._weighed_if_full(connection, window)
        if window.bytes > self._max_bytes:
            row = connection.execute(_BYTES_FLOOR, {"max_bytes": self._max_bytes}).fetchone()
            # The newest stays, however large: the next id follows from it.
            floor = min(max(floor, row["floor"]), newest - 1)
        if floor <= 0:
            return window
        # Only what goes is measured: reading the whole window each time would cost every run.
        gone = connection.execute(_BYTES_UP_TO, {"floor": floor}).fetchone()["bytes"]
        connection.execute(_TRIM, {"floor": floor})
        oldest = connection.execute(_OLDEST).fetchone()["oldest"]
        evicted = window.evicted + max(oldest - window.oldest_id, 0)
        return replace(window, bytes=window.bytes - gone, oldest_id=oldest, evicted=evicted)

    def _weighed_if_full(self, connection: sqlite3.Connection, window: _Window) -> _Window:
        if window.bytes <= self._max_bytes or window.weighed:
            return window
        return replace(window, bytes=connection.execute(_BYTES).fetchone()["bytes"], weighed=True)

    def _watching(self, session_id: str | None, run_id: str | None) -> list[set[Subscription]]:
        """Whose scope admits an event, without looking at anybody else."""
        admitting = {(None, None), (session_id, None), (None, run_id), (session_id, run_id)}
        return [watchers for key in admitting if (watchers := self._watchers.get(key))]

    def _offer(self, event: FeedEvent, watching: list[set[Subscription]]) -> None:
        for watchers in watching:
            for subscription in watchers:
                self._lagged += subscription.offer(event)

    def floor(self) -> int:
        """Cursors below this have lost events: the window starts right after it."""
        return max(self._window.oldest_id - 1, self.tail_id - self._capacity, 0)

    async def page(self, scope: _Scope, after: int, until: int) -> list[FeedEvent]:
        """The next stored events of a scope, oldest first; one whose row is damaged is without data."""
        fields = {
            "after": after,
            "until": until,
            "session_id": scope.session_id,
            "run_id": scope.run_id,
            "limit": _REPLAY_PAGE,
        }

        def query(connection: sqlite3.Connection) -> list[FeedEvent]:
            return [
                FeedEvent(
                    id=row["id"],
                    type=row["type"] if row["data"] else "",
                    session_id=row["session_id"],
                    run_id=row["run_id"],
                    data=row["data"].encode(),
                )
                for row in connection.execute(_REPLAY, fields)
            ]

        return await self._database.read(query)

    def enter(self, key: _Key, subscription: Subscription) -> None:
        self._watchers.setdefault(key, set()).add(subscription)

    def leave(self, key: _Key, subscription: Subscription) -> None:
        watchers = self._watchers[key]
        watchers.remove(subscription)
        if not watchers:
            del self._watchers[key]

    def count_gap(self) -> None:
        self._gaps += 1


class Subscription:
    """One watcher: a gap if events were lost, then replay, then live, without duplicates.

    Iterates over batches, each of what is there at the time, up to a bound.
    """

    def __init__(self, feed: Feed, scope: _Scope, cursor: int | None) -> None:
        self._feed = feed
        self._scope = scope
        self._cursor = cursor
        self._page: deque[FeedEvent] = deque()
        self._waiting: deque[FeedEvent] = deque()
        self._waiting_bytes = 0
        self._cut = 0
        """Events that left the window before they were replayed."""
        self._lagged = 0
        """Events dropped from the backlog, up to `_lagged_through`."""
        self._lagged_through = 0
        self._last_id = 0
        self._replay_until = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asleep: asyncio.Future[None] | None = None
        self._nudged = False
        self._closed = False

    async def __aenter__(self) -> Subscription:
        self._loop = asyncio.get_running_loop()
        # Joined before the tail is read: an event is either in the replayed range or offered live, never neither.
        self._feed.enter(self._scope.key, self)
        self._replay_until = self._feed.tail_id
        self._last_id = self._replay_until if self._cursor is None else min(self._cursor, self._replay_until)
        self._cut_window()
        if self._cursor == 0:
            # "From the beginning" means all there is.
            self._cut = 0
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._feed.leave(self._scope.key, self)

    def close(self) -> None:
        """End the iteration after what is already waiting."""
        self._closed = True
        self._wake()

    def nudge(self) -> None:
        """If nothing is there, let the iteration have an empty batch now."""
        self._nudged = True
        self._wake()

    def offer(self, event: FeedEvent) -> int:
        """Queue an event; returns how many were dropped because the reader is too slow."""
        dropped = 0
        if len(self._waiting) >= _SUBSCRIBER_BACKLOG or self._waiting_bytes > _BACKLOG_BYTES:
            dropped = self._drop_backlog()
        self._waiting.append(event)
        self._waiting_bytes += len(event.frame)
        self._wake()
        return dropped

    def _drop_backlog(self) -> int:
        lost = [event for event in self._waiting if event.id is not None]
        self._waiting.clear()
        self._waiting_bytes = 0
        if lost:
            self._lagged += len(lost)
            self._lagged_through = lost[-1].id or 0
        return len(lost)

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> list[FeedEvent]:
        while True:
            if batch := self._batch():
                self._nudged = False
                return batch
            if self._last_id < self._replay_until:
                await self._replay()
            elif self._nudged:
                self._nudged = False
                return []
            elif self._closed:
                raise StopAsyncIteration
            else:
                await self._sleep()

    def _batch(self) -> list[FeedEvent]:
        """What can be read now without waiting: of one kind, in its order."""
        if self._cut:
            skipped, self._cut = self._cut, 0
            return [self._gap(skipped, "replay_window")]
        if self._page:
            page = map(self._taken, _first(self._page))
            return [event if event.data else self._gap(1, "replay_window") for event in page]
        if self._last_id < self._replay_until:
            return []
        if self._lagged:
            # After the replay: what was dropped came later than all of it.
            skipped, self._lagged = self._lagged, 0
            self._last_id = self._lagged_through
            return [self._gap(skipped, "live_lag")]
        events = _first(self._waiting)
        for event in events:
            self._waiting_bytes -= len(self._taken(event).frame)
        return events

    async def _sleep(self) -> None:
        assert self._loop is not None
        self._asleep = self._loop.create_future()
        try:
            await self._asleep
        finally:
            self._asleep = None

    def _wake(self) -> None:
        if self._asleep is not None and not self._asleep.done():
            self._asleep.set_result(None)

    def _taken(self, event: FeedEvent) -> FeedEvent:
        if event.id is not None:
            self._last_id = event.id
        return event

    async def _replay(self) -> None:
        page = await self._feed.page(self._scope, self._last_id, self._replay_until)
        last = len(page) < _REPLAY_PAGE
        # The window moves on while a slow reader takes its pages.
        self._cut_window()
        self._page.extend(event for event in page if (event.id or 0) > self._last_id)
        if last:
            self._replay_until = 0

    def _cut_window(self) -> None:
        floor = min(self._feed.floor(), self._replay_until)
        if self._last_id < floor:
            self._cut = floor - self._last_id
            self._last_id = floor

    def _gap(self, skipped: int, reason: str) -> FeedEvent:
        data = encode(
            {
                "type": "stream_gap",
                "skipped": skipped,
                "resume_after_id": str(self._last_id),
                "reason": reason,
                "scope": self._scope.name,
                "skipped_is_estimate": self._scope.name != "global",
            }
        )
        self._feed.count_gap()
        return FeedEvent(
            id=self._last_id,
            type="stream_gap",
            session_id=self._scope.session_id,
            run_id=self._scope.run_id,
            data=data,
        )


def _first(events: deque[FeedEvent]) -> list[FeedEvent]:
    """Take the first events: at least one if there is any, and no more bytes than a batch may have."""
    taken: list[FeedEvent] = []
    size = 0
    while events and (not taken or size + len(events[0].frame) <= _BATCH_BYTES):
        event = events.popleft()
        size += len(event.frame)
        taken.append(event)
    return taken
