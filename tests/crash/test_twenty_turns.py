"""A run of twenty turns, killed at fifty random instants."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.crash.invariants import Report
from tests.crash.killing import Killer
from tests.crash.laboratory import World

pytestmark = [pytest.mark.e2e, pytest.mark.crash]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_run_of_twenty_turns_killed_at_fifty_random_instants_completes_with_the_same_answer(
    crash_world: Callable[..., World], checked: Callable[[World], Report]
) -> None:
    """As many such runs, one after the other, as fifty kills take."""
    made = crash_world(mode="bypass-permissions")
    Killer(made, sessions=1, turns=20, manners={"instant": 1}).rampage(50)

    assert checked(made).kills >= 50
