"""The state roots of the bench are what a daemon would have left: it starts on them and finishes what is unfinished."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bench.seeding import ROUTES, SCRIPT, Place, seeding, templates
from kheish.engine import entries as e
from tests.http.house import DEADLINE_S, opened

pytestmark = pytest.mark.anyio


async def test_a_daemon_goes_on_with_copied_runs_of_every_kind(tmp_path: Path) -> None:
    place = Place(root=tmp_path)
    place.prepare()
    made = await templates(place)
    look, ask = made["look"], made["ask"]
    sessions = {
        "history": [look, look],
        "asks": [look, ask, look.first(e.InputAccepted)],
        "called": [look, look.first(e.RunStarted)],
        "in-doubt": [look, look.first(e.ToolIntended)],
        "answered": [look, look.first(e.ToolFinished)],
    }
    async with seeding(place) as seed:
        await seed.sessions(list(sessions.items()))
        long = await seed.session("long", [look] * 5)
    async with opened(tmp_path, script=SCRIPT, routes=ROUTES) as house:
        async with asyncio.timeout(DEADLINE_S):
            for name in sessions:
                await house.daemon.engine.quiescent(name)
        runs = (await house.get("/v1/runs")).json()
        approvals = (await house.get("/v1/approvals")).json()
        resumed = [run["run_id"] for run in runs if "resumed" in await house.event_types(run["run_id"])]

    assert long == 5 * len(look.entries) == 40
    by_session: dict[str, list[str]] = {}
    for run in sorted(runs, key=lambda run: int(run["run_id"].removeprefix("run-"))):
        by_session.setdefault(run["session_id"], []).append(run["status"])
    assert by_session == {
        "history": ["completed"] * 2,
        "asks": ["completed", "waiting_for_approval", "queued"],
        "called": ["completed"] * 2,
        "in-doubt": ["completed"] * 2,
        "answered": ["completed"] * 2,
        "long": ["completed"] * 5,
    }
    assert len(resumed) == 3
    assert len(approvals) == 1
