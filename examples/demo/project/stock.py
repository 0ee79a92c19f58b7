"""The stock of a harbour shop."""

from __future__ import annotations


class OutOfStock(Exception):
    """There is less of an item than somebody wants."""


class Stock:
    """How many of each item there are."""

    def __init__(self) -> None:
        self._items: dict[str, int] = {}

    def add(self, item: str, count: int) -> None:
        self._items[item] = self.count(item) + count

    def sell(self, item: str, count: int) -> None:
        left = self.count(item) - count
        if left < 0:
            raise OutOfStock(item)
        self._items[item] = left

    def count(self, item: str) -> int:
        return self._items.get(item, 0)
