from __future__ import annotations

import contextlib
import dataclasses
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.crash.invariants import Report, check
from tests.crash.laboratory import World, world

_PROPERTY = "crash laboratory"


@pytest.fixture
def crash_seed(request: pytest.FixtureRequest) -> int:
    """What everything is drawn from: `--crash-seed`, KHEISH_CRASH_SEED, or a new one."""
    given = request.config.getoption("--crash-seed") or os.environ.get("KHEISH_CRASH_SEED")
    return int(given) if given else random.randrange(2**32)


@pytest.fixture
def crash_world(tmp_path: Path, crash_seed: int) -> Iterator[Callable[..., World]]:
    """Make the world of this test; keywords go to `World`."""
    with contextlib.ExitStack() as worlds:
        yield lambda **options: worlds.enter_context(world(tmp_path, seed=crash_seed, **options))


@pytest.fixture
def checked(record_property: Callable[[str, object], None]) -> Callable[[World], Report]:
    """Hold a world against every invariant, and give its figures to the summary."""

    def look(made: World) -> Report:
        report = check(made)
        record_property(_PROPERTY, dataclasses.asdict(report))
        return report

    return look


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    found = [
        (report.nodeid.rpartition("::")[2], figures)
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, figures in getattr(report, "user_properties", ())
        if name == _PROPERTY and report.when == "call"
    ]
    if not found:
        return
    terminalreporter.section("crash laboratory")
    for test, figures in sorted(found):
        terminalreporter.line(f"{test}, seed {figures['seed']}: {_line(figures)}")
    terminalreporter.line(f"together: {_line(_sum([figures for _, figures in found]))}")


def _line(figures: dict[str, Any]) -> str:
    manners = ", ".join(f"{count} {manner}" for manner, count in sorted(figures["by_manner"].items()))
    return (
        f"{figures['kills']} kills ({manners}), {figures['runs']} runs, {figures['resumed_runs']} resumed runs "
        f"({figures['resumes']} times), {figures['in_doubt_calls']} in-doubt calls, "
        f"{figures['repeated_effects']} repeated effects, {figures['lost_runs']} lost runs"
    )


def _sum(all_figures: list[dict[str, Any]]) -> dict[str, Any]:
    total: dict[str, Any] = {"by_manner": {}}
    for figures in all_figures:
        for manner, count in figures["by_manner"].items():
            total["by_manner"][manner] = total["by_manner"].get(manner, 0) + count
        for name, value in figures.items():
            if name != "by_manner":
                total[name] = total.get(name, 0) + value
    return total
