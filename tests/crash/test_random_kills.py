"""Sessions in parallel, with every kind of step, under a daemon that is killed again and again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.crash.invariants import Report
from tests.crash.killing import Killer
from tests.crash.laboratory import World

pytestmark = [pytest.mark.e2e, pytest.mark.crash]

MakeWorld = Callable[..., World]
Checked = Callable[[World], Report]
MODES = ("accept-edits", "default", "bypass-permissions")


@pytest.mark.timeout(180)
def test_without_a_kill_every_run_ends_with_its_calm_answer(crash_world: MakeWorld, checked: Checked) -> None:
    made = crash_world(mode="default")
    Killer(made, sessions=1, turns=13).rampage(0)

    report = checked(made)
    assert (report.kills, report.resumes, report.in_doubt_calls) == (0, 0, 0)


@pytest.mark.timeout(300)
def test_parallel_sessions_survive_kills_at_random_instants(crash_world: MakeWorld, checked: Checked) -> None:
    made = crash_world()
    Killer(made, sessions=5, turns=6).rampage(6)

    assert checked(made).kills >= 6


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", MODES)
def test_twenty_parallel_sessions_survive_fifty_kills(crash_world: MakeWorld, checked: Checked, mode: str) -> None:
    made = crash_world(mode=mode)
    Killer(made, sessions=20, turns=20).rampage(50)

    report = checked(made)
    assert report.kills >= 50
    assert report.resumed_runs > 0
