"""A session that was copied in the database is one a daemon may have left."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.copies import copy_session
from bench.seeding import ROUTES, SCRIPT, Place, live
from kheish.state.verify import verify
from tests.http.house import opened

pytestmark = pytest.mark.anyio


async def test_a_daemon_lists_the_copies_and_goes_on_with_one(tmp_path: Path) -> None:
    place = Place(root=tmp_path)
    place.prepare()
    await live(place, place.state, {"seed": "use a tool"})
    many = copy_session(place.state / "kheish.db", "seed", "past", sessions=150)
    (long,) = copy_session(place.state / "kheish.db", "seed", "long", sessions=1, turns=30)

    faults = {finding["code"] for finding in verify(place.state)["findings"]}
    async with opened(tmp_path, script=SCRIPT, routes=ROUTES) as house:
        total = (await house.get("/v1/sessions", page="true")).json()["pagination"]["total_count"]
        began = [await house.submit("use a tool", name) for name in (many[-1], long)]
        for run in began:
            await house.settled(run["session_id"])
        ended = [await house.run(run["run_id"]) for run in began]
        unfinished = house.daemon.unfinished

    assert faults == {"external_actions_damaged"}
    assert unfinished == ()
    assert total == 152
    assert [(run["run_id"], run["status"]) for run in ended] == [("run-182", "completed"), ("run-183", "completed")]


async def test_a_copy_has_its_own_ids_everywhere_and_the_entries_of_each_of_its_turns(tmp_path: Path) -> None:
    place = Place(root=tmp_path)
    place.prepare()
    await live(place, place.state, {"seed": "use a tool"})
    copy_session(place.state / "kheish.db", "seed", "long", sessions=2, turns=3)
    async with opened(tmp_path, script=SCRIPT, routes=ROUTES) as house:
        view = (await house.get("/v1/sessions/long-1")).json()
        state = await house.daemon.engine.state("long-1")
        rows = await house.daemon.board._database.read(
            lambda connection: [
                (row["position"], row["run_id"])
                for row in connection.execute("SELECT * FROM journal WHERE session_id = 'long-1' ORDER BY position")
            ]
        )
        texts = await house.daemon.board._database.read(
            lambda connection: [
                row["body"] for row in connection.execute("SELECT body FROM journal WHERE session_id LIKE 'long%'")
            ]
        )
    calls = [text for text in texts if '"call-' in text]

    assert view["session_id"] == "long-1"
    assert state.next_offset == 3 * 8 + 1
    assert rows == [(1 + place, f"run-{5 + place // 8}") for place in range(24)]
    assert not any('"run-1"' in text or "seed" in text for text in texts)
    assert len({text.partition('"call-')[2][:20] for text in calls}) == 6
