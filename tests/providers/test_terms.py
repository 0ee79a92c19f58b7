"""When a call is made again, and what it costs."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheish.core.messages import Usage
from kheish.providers.drivers import FACTS, Driver
from kheish.providers.limits import Limits
from kheish.providers.prices import Price, list_prices
from kheish.providers.routes_file import parse_routes
from kheish.providers.tables import RoutesError
from kheish.providers.terms import Backoff, PriceSource, RetryPolicy, RouteTerms

FILE = b"""
[routes.r]
driver = "openai_compatible"
default_model = "local"
base_url = "http://h/v1"
inactivity_timeout_ms = 5000
total_timeout_ms = 600000

[routes.r.retry]
attempts = 5
backoff = "exponential"
backoff_ms = 200
max_backoff_ms = 1500
jitter = 0.25

[routes.r.prices.local]
input = 1
output = 2.5
beyond = { tokens = 1000, input = 3, output = 5, cached_input = 1 }

[routes.r.prices."*"]
input = 0.5
output = 1
cached_input = 0.1
"""


def test_a_routes_file_may_set_retries_time_limits_and_prices() -> None:
    route = parse_routes(FILE, {}).routes[0]

    assert route.retry == RetryPolicy(
        attempts=5, backoff=Backoff.EXPONENTIAL, backoff_ms=200, max_backoff_ms=1500, jitter=0.25
    )
    assert route.limits == Limits(inactivity=5.0, whole=600.0)
    above = Price(input=3, output=5, cached_input=1, cache_write=3)
    assert route.prices == {
        "local": Price(input=1, output=2.5, cached_input=1, cache_write=1, beyond_tokens=1000, beyond=above),
        "*": Price(input=0.5, output=1, cached_input=0.1, cache_write=0.5),
    }
    assert route.terms.price_source("local") is route.terms.price_source("any") is PriceSource.ROUTE


def test_without_a_word_in_the_file_a_turn_has_two_attempts_a_second_apart() -> None:
    """Rules 9 and 10."""
    route = parse_routes(b'[routes.r]\ndriver = "openai"\ndefault_model = "gpt-5"\napi_key = "k"\n', {}).routes[0]

    assert (route.retry.attempts, route.limits) == (2, Limits(inactivity=90.0, whole=240.0))
    assert [route.retry.wait_ms(attempt, "x") for attempt in (1, 2, 3)] == [1000, 2000, 3000]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("retry = 3", "retry: must be a table"),
        ("retry = { attempts = 0 }", "retry: attempts: must be at least 1"),
        ("retry = { attempts = 11 }", "retry: attempts: must be at least 1 and at most 10"),
        ('retry = { backoff = "random" }', "retry: backoff: must be one of linear, exponential"),
        ("retry = { jitter = 1.5 }", "retry: jitter: must be between 0 and 1"),
        ("retry = { jitter = nan }", "retry: jitter: must be a number"),
        ("retry = { tries = 3 }", "retry: unknown key 'tries'"),
        ("inactivity_timeout_ms = 0", "inactivity_timeout_ms: must be at least 1"),
        ("prices = 3", "prices: must be a table of models"),
        ("prices.m = 3", "prices of model number 1: must be a table"),
        ("prices.m = { input = 1 }", "prices of model number 1: output: is required"),
        ("prices.m = { input = -1, output = 1 }", "input: must not be negative"),
        ("prices.m = { input = true, output = 1 }", "input: must be a number"),
        ("prices.m = { input = 1, output = 1, per = 5 }", "prices of model number 1: unknown key 'per'"),
        ("prices.m = { input = 1, output = 1, beyond = { input = 1, output = 1 } }", "beyond: tokens: is required"),
        ('prices."sk-SECRET" = { input = 1 }', "prices of model number 1: output: is required"),
    ],
)
def test_terms_that_break_a_rule_stop_the_start(fields: str, message: str) -> None:
    data = f'[routes.r]\ndriver = "openai"\ndefault_model = "gpt-5"\napi_key = "k"\n{fields}\n'

    with pytest.raises(RoutesError, match=re.escape(message)) as caught:
        parse_routes(data.encode(), {})
    assert "SECRET" not in caught.value.detail


@given(
    attempt=st.integers(1, 50),
    backoff=st.sampled_from(Backoff),
    step=st.integers(0, 100_000),
    most=st.integers(0, 100_000),
    jitter=st.floats(0, 1),
    salt=st.text(),
)
def test_a_wait_is_bounded_and_the_same_call_waits_the_same_time(
    attempt: int, backoff: Backoff, step: int, most: int, jitter: float, salt: str
) -> None:
    policy = RetryPolicy(backoff=backoff, backoff_ms=step, max_backoff_ms=most, jitter=jitter)
    steady = RetryPolicy(backoff=backoff, backoff_ms=step, max_backoff_ms=most)

    whole = steady.wait_ms(attempt, salt)
    assert whole <= most
    assert round(whole * (1 - jitter)) <= policy.wait_ms(attempt, salt) <= whole
    assert policy.wait_ms(attempt, salt) == policy.wait_ms(attempt, salt)


def test_jitter_spreads_calls_that_failed_together() -> None:
    policy = RetryPolicy(jitter=1)

    assert len({policy.wait_ms(1, f"run-{number}:1") for number in range(100)}) > 80


def test_a_cost_counts_cached_written_fresh_and_long_input_at_their_own_prices() -> None:
    above = Price(input=100, output=100, cached_input=100, cache_write=100)
    price = Price(input=10, output=20, cached_input=1, cache_write=5, beyond_tokens=1000, beyond=above)
    usage = Usage(input_tokens=1000, output_tokens=10, cached_input_tokens=600, cache_write_tokens=300)

    assert price.cost_usd(usage) == pytest.approx((100 * 10 + 600 * 1 + 300 * 5 + 10 * 20) / 1e6)
    assert price.cost_usd(Usage(input_tokens=1001)) == pytest.approx(1001 * 100 / 1e6)
    assert price.cost_usd(Usage(input_tokens=1, cached_input_tokens=9)) == pytest.approx(9 / 1e6)


@pytest.mark.parametrize(
    ("model", "listed"),
    [
        ("gpt-5.4", "gpt-5.4"),
        ("GPT-5.4-2026-03-05", "gpt-5.4"),
        ("gpt-5.4-mini-2026-03-17", "gpt-5.4-mini"),
        ("claude-opus-4-6", "claude-opus-4-6"),
        ("claude-opus-4-20250514", "claude-opus-4"),
        ("claude-sonnet-4-5-20250929", "claude-sonnet-4-5"),
        ("gemini-2.5-flash-001", "gemini-2.5-flash"),
        ("models/gemini-2.5-pro", "gemini-2.5-pro"),
        ("gemini-3-pro-preview", "gemini-3-pro"),
        ("gemini-3-flash-preview-11-2026", "gemini-3-flash"),
        ("gpt-5.4-turbo", None),
        ("gpt-5-codex", None),
        ("claude-opus-4-9", None),
        ("gemini-2.5-flash-image", None),
        ("llama", None),
    ],
)
def test_a_listed_price_is_for_that_model_and_no_other(model: str, listed: str | None) -> None:
    table = list_prices()

    assert table.find(model) == (None if listed is None else table.models[listed])


def test_the_shipped_table_is_dated_sensible_and_knows_the_default_models() -> None:
    table = list_prices()

    assert re.fullmatch(r"20\d\d-\d\d-\d\d", table.as_of)
    for price in table.models.values():
        assert 0 < price.cached_input <= price.input < price.output
        assert price.beyond is None or price.beyond.input >= price.input
    for driver in (Driver.ANTHROPIC, Driver.GOOGLE, Driver.OPENAI, Driver.XAI):
        assert table.find(FACTS[driver].default_model or "") is not None


def test_an_unknown_price_is_no_cost_and_is_called_unknown() -> None:
    usage = Usage(input_tokens=1000, output_tokens=1000)
    for driver, model, source in (
        (Driver.OPENAI, "gpt-99", PriceSource.UNKNOWN),
        (Driver.OPENAI_COMPATIBLE, "gpt-5.4", PriceSource.UNKNOWN),
        (Driver.SCRIPTED, "gpt-5.4", PriceSource.UNKNOWN),
        (Driver.OPENROUTER, "openai/gpt-5.4", PriceSource.PROVIDER),
    ):
        terms = RouteTerms(driver=driver)
        assert terms.priced(model, usage) == usage
        assert terms.price_source(model) is source

    known = RouteTerms(driver=Driver.OPENAI)
    assert known.price_source("gpt-5.4") is PriceSource.LIST
    assert known.priced("gpt-5.4", usage).cost_usd == pytest.approx(0.0175)


def test_what_the_provider_says_a_call_cost_stays() -> None:
    usage = Usage(input_tokens=1000, output_tokens=1000, cost_usd=0.5)
    price = Price(input=1, output=1, cached_input=1, cache_write=1)

    assert RouteTerms(driver=Driver.OPENROUTER, prices={"*": price}).priced("m", usage) == usage
