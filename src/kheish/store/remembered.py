"""What the writer remembers of rows, so that it need not read them again."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

from kheish.store.database import Transaction

T = TypeVar("T")


class Remembered(Generic[T]):
    """Values of rows as durable commits left them, the most recent ones. For the writer's thread, but for `last`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._values: OrderedDict[str, tuple[T, int]] = OrderedDict()
        """With the number of commits that had failed by then."""

    def find(self, transaction: Transaction, key: str) -> T | None:
        """The value, if it is known and the unit's subject was not written about in this commit before."""
        known = self._values.get(key)
        # A commit that failed may have been written all the same: the rows may be newer.
        if known is None or not transaction.fresh or known[1] != transaction.failures:
            return None
        self._values.move_to_end(key)
        return known[0]

    def last(self, key: str) -> T | None:
        """The value as the last durable commit of ours left it, which rows may have moved on from."""
        known = self._values.get(key)
        return None if known is None else known[0]

    def keep(self, transaction: Transaction, key: str, value: T) -> None:
        """Remember ``value`` once the commit is durable."""

        failures = transaction.failures

        def remember() -> None:
            self._values[key] = value, failures
            self._values.move_to_end(key)
            if len(self._values) > self._limit:
                self._values.popitem(last=False)

        transaction.kept.append(remember)

    def forget(self, key: str) -> None:
        self._values.pop(key, None)

    def clear(self) -> None:
        self._values.clear()
