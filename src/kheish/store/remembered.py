"""What the writer remembers of rows, so that it need not read them again."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

from kheish.store.database import Transaction

T = TypeVar("T")


class Remembered(Generic[T]):
    """Values of rows as durable commits left them, the most recent ones. For the writer's thread."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._failures = 0
        self._values: OrderedDict[str, T] = OrderedDict()

    def find(self, transaction: Transaction, key: str) -> T | None:
        """The value, if it is known and the unit's subject was not written about in this commit before."""
        if transaction.failures != self._failures:
            # A commit that failed may have been written all the same: the rows may be newer.
            self._failures = transaction.failures
            self._values.clear()
        if not transaction.fresh:
            return None
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def keep(self, transaction: Transaction, key: str, value: T) -> None:
        """Remember ``value`` once the commit is durable."""

        def remember() -> None:
            self._values[key] = value
            self._values.move_to_end(key)
            if len(self._values) > self._limit:
                self._values.popitem(last=False)

        transaction.kept.append(remember)

    def forget(self, key: str) -> None:
        self._values.pop(key, None)

    def clear(self) -> None:
        self._values.clear()
