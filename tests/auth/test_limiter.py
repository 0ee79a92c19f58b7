"""Failures are counted per kind and address in a sliding minute."""

from __future__ import annotations

from kheish.auth.limiter import FAILURES_PER_WINDOW, MAX_SAMPLES, WINDOW_MS, FailureLimiter, Verdict

HERE = ("invalid_token", "10.0.0.1")
THERE = ("invalid_token", "10.0.0.2")


def test_the_sixty_first_failure_in_a_minute_is_limited_and_announced_once() -> None:
    limiter = FailureLimiter()
    verdicts = [limiter.failed(HERE, 1000 + number) for number in range(FAILURES_PER_WINDOW + 3)]

    assert verdicts[:FAILURES_PER_WINDOW] == [Verdict.COUNTED] * FAILURES_PER_WINDOW
    assert verdicts[FAILURES_PER_WINDOW:] == [Verdict.LIMITED_NOW, Verdict.LIMITED, Verdict.LIMITED]
    assert limiter.failed(THERE, 1100) is Verdict.COUNTED
    assert limiter.failed(("missing_token", HERE[1]), 1100) is Verdict.COUNTED


def test_the_window_slides() -> None:
    limiter = FailureLimiter()
    for number in range(FAILURES_PER_WINDOW):
        limiter.failed(HERE, number)

    assert limiter.failed(HERE, WINDOW_MS - 1) is Verdict.LIMITED_NOW
    assert limiter.failed(HERE, WINDOW_MS) is Verdict.COUNTED


def test_a_limit_that_lasts_is_announced_again_in_the_next_window() -> None:
    limiter = FailureLimiter()
    for number in range(FAILURES_PER_WINDOW):
        limiter.failed(HERE, number * 1000)
    assert limiter.failed(HERE, 59_500) is Verdict.LIMITED_NOW
    for number in range(FAILURES_PER_WINDOW):
        limiter.failed(HERE, 60_000 + number * 1000)

    assert limiter.failed(HERE, 119_900) is Verdict.LIMITED_NOW


def test_what_is_remembered_is_bounded() -> None:
    limiter = FailureLimiter()
    for number in range(MAX_SAMPLES + 500):
        limiter.failed(("invalid_token", f"address {number}"), 1000)

    assert len(limiter._buckets) == MAX_SAMPLES
