from __future__ import annotations

import pytest

from kheish.store.distribution import Distribution


@pytest.mark.parametrize(
    ("value", "counts"), [(0.0, (1, 0, 0)), (1.0, (1, 0, 0)), (1.5, (0, 1, 0)), (2.0, (0, 1, 0)), (2.1, (0, 0, 1))]
)
def test_a_value_is_counted_under_the_first_bound_that_holds_it(value: float, counts: tuple[int, ...]) -> None:
    distribution = Distribution((1.0, 2.0))
    distribution.add(value)

    assert (distribution.spread().counts, distribution.spread().total) == (counts, value)


def test_a_spread_is_a_copy() -> None:
    distribution = Distribution((1.0,))
    before = distribution.spread()
    distribution.add(0.5)

    assert before.counts == (0, 0)
