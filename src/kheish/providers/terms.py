"""On what terms a route is called: when to try again, and what a call costs. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import field, replace
from enum import StrEnum

from kheish.core.messages import Usage
from kheish.core.values import value_class
from kheish.providers.drivers import Driver
from kheish.providers.prices import Price, list_price

ANY_MODEL = "*"
"""The name under which a route prices every model it does not name."""


_WITHOUT_LIST_PRICE = (Driver.OPENAI_COMPATIBLE, Driver.OPENROUTER, Driver.PYDANTIC_AI, Driver.SCRIPTED)


class Backoff(StrEnum):
    LINEAR = "linear"  # the step times the number of the failed attempt
    EXPONENTIAL = "exponential"  # the step, doubled with every failed attempt


@value_class(frozen=True, kw_only=True, slots=True)
class RetryPolicy:
    """When a model call that failed is made again."""

    attempts: int = 2
    """Of one model turn, the first included."""
    backoff: Backoff = Backoff.LINEAR
    backoff_ms: int = 1_000
    max_backoff_ms: int = 60_000
    jitter: float = 0.0
    """The share of each wait that is left to chance: 0 = none, 1 = anything from nothing to the whole wait."""

    def wait_ms(self, attempt: int, salt: str) -> int:
        """How long to wait after the failed ``attempt``, counted from 1.

        Chance is drawn from ``salt``: the same call waits the same time, and two calls hardly ever do.
        """
        growth = attempt if self.backoff is Backoff.LINEAR else 2 ** min(attempt - 1, 32)
        wait = min(self.backoff_ms * growth, self.max_backoff_ms)
        digest = hashlib.sha256(f"{salt}:{attempt}".encode()).digest()
        return round(wait * (1 - self.jitter * int.from_bytes(digest[:8]) / 2**64))


class PriceSource(StrEnum):
    """Where the cost of a route's calls comes from."""

    ROUTE = "route"
    LIST = "list"
    PROVIDER = "provider"
    UNKNOWN = "unknown"
    """`cost_usd` is 0 unless the provider names one."""


@value_class(frozen=True, kw_only=True, slots=True)
class RouteTerms:
    """The terms of one route."""

    driver: Driver
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    prices: Mapping[str, Price] = field(default_factory=dict)
    """What the route says itself, by model or `*`."""

    def price(self, model: str) -> Price | None:
        """Return what tokens of a model cost on this route, None when nobody knows."""
        own = self.prices.get(model) or self.prices.get(ANY_MODEL)
        if own is not None or self.driver in _WITHOUT_LIST_PRICE:
            return own
        return list_price(model)

    def price_source(self, model: str) -> PriceSource:
        if model in self.prices or ANY_MODEL in self.prices:
            return PriceSource.ROUTE
        if self.driver is Driver.OPENROUTER:
            return PriceSource.PROVIDER
        return PriceSource.UNKNOWN if self.price(model) is None else PriceSource.LIST

    def priced(self, model: str, usage: Usage) -> Usage:
        """Return a call's usage with its cost; what the provider itself names stays."""
        price = self.price(model)
        if usage.cost_usd or price is None:
            return usage
        return replace(usage, cost_usd=price.cost_usd(usage))
