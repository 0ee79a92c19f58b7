"""What tokens cost: a dated table of list prices, and what a route says of its own."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from functools import cache, lru_cache
from importlib import resources

from kheish.core.messages import Usage
from kheish.core.values import value_class
from kheish.providers.tables import Table

_PER = 1_000_000
_SAME_MODEL = re.compile(r"(-\d{3,8}|-\d{4}-\d\d-\d\d|-(latest|preview)([-.].*)?)?\Z")


@value_class(frozen=True, kw_only=True, slots=True)
class Price:
    """US dollars per million tokens."""

    input: float
    output: float
    cached_input: float
    cache_write: float
    beyond_tokens: int | None = None
    beyond: Price | None = None
    """Of requests whose input is longer than `beyond_tokens`."""

    def cost_usd(self, usage: Usage) -> float:
        """What a call with this usage cost."""
        if self.beyond is not None and usage.input_tokens > (self.beyond_tokens or 0):
            return self.beyond.cost_usd(usage)
        fresh = max(0, usage.input_tokens - usage.cached_input_tokens - usage.cache_write_tokens)
        return (
            fresh * self.input
            + usage.cached_input_tokens * self.cached_input
            + usage.cache_write_tokens * self.cache_write
            + usage.output_tokens * self.output
        ) / _PER


@value_class(frozen=True, kw_only=True, slots=True)
class ListPrices:
    """The table this release ships."""

    as_of: str
    """The day the prices were looked up, as YYYY-MM-DD."""
    models: Mapping[str, Price]

    def find(self, model: str) -> Price | None:
        """Return a model's price; None when the table does not know exactly this model."""
        name = model.lower().removeprefix("models/")
        exact = self.models.get(name)
        if exact is not None:
            return exact
        known = (listed for listed in self.models if name.startswith(listed) and _SAME_MODEL.match(name, len(listed)))
        return next((self.models[listed] for listed in known), None)


@cache
def list_prices() -> ListPrices:
    """Return the shipped table; it is read when the first cost is asked for."""
    top = Table(tomllib.loads(resources.files("kheish.providers").joinpath("prices.toml").read_text()), "prices.toml")
    models = top.take("models")
    assert isinstance(models, dict)
    prices = {name.lower(): read_price(Table(fields, f"prices.toml: {name}")) for name, fields in models.items()}
    return ListPrices(as_of=top.required_text("as_of"), models=prices)


@lru_cache(maxsize=256)
def list_price(model: str) -> Price | None:
    """Return a model's price in the shipped table; None when that does not know exactly this model."""
    return list_prices().find(model)


def read_price(table: Table) -> Price:
    """Read one price; what is cached costs as much as what is not unless the table says otherwise.

    Raises:
        RoutesError: a key is unknown, missing or no amount.
    """
    beyond = table.take("beyond")
    price = _flat(table)
    table.done(also=("beyond",))
    if beyond is None:
        return price
    inner = Table(beyond, f"{table.where}: beyond")
    tokens = inner.integer("tokens", minimum=1)
    if tokens is None:
        inner.fail("tokens", "is required")
    above = _flat(inner)
    inner.done()
    return Price(
        input=price.input,
        output=price.output,
        cached_input=price.cached_input,
        cache_write=price.cache_write,
        beyond_tokens=tokens,
        beyond=above,
    )


def _flat(table: Table) -> Price:
    given = {name: table.amount(name) for name in ("input", "output", "cached_input", "cache_write")}
    fresh, output = given["input"], given["output"]
    if fresh is None or output is None:
        table.fail("input" if fresh is None else "output", "is required")
    cached, written = given["cached_input"], given["cache_write"]
    return Price(
        input=fresh,
        output=output,
        cached_input=fresh if cached is None else cached,
        cache_write=fresh if written is None else written,
    )
