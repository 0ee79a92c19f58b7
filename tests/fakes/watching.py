"""A watcher of the event feed that looks at one event after the other."""

from __future__ import annotations

from collections import deque

from kheish.store.events import FeedEvent
from kheish.store.feed import Subscription


class Each:
    """The events of an entered subscription, one by one."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription
        self._batch: deque[FeedEvent] = deque()

    def __aiter__(self) -> Each:
        return self

    async def __anext__(self) -> FeedEvent:
        while not self._batch:
            self._batch.extend(await anext(self._subscription))
        return self._batch.popleft()
