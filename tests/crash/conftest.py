from __future__ import annotations

import contextlib
import dataclasses
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.crash.invariants import Report, check
from tests.crash.laboratory import World, world
from tests.crash.summary import PROPERTY


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
        record_property(PROPERTY, dataclasses.asdict(report))
        return report

    return look
