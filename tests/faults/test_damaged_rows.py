"""Garbage in any column of any row is the trouble of its own session: all lists and all others are as before."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import pytest

from kheish.core.jsonvalue import decode_object
from tests.fakes.watching import Each
from tests.http.house import House, opened

pytestmark = pytest.mark.anyio

GARBAGE = {
    "half a JSON text": "'{'",
    "bytes": "x'ff'",
    "a text that is not UTF-8": "CAST(x'22ff22' AS TEXT)",
    "a large number": "1e300",
}
HOMELESS = ("idempotency", "usage_by_hour", "runtime_revisions", "binding_keys", "external_action_keys")
"""Tables whose rows belong to no session."""
LISTS = ("/v1/status", "/v1/sessions", "/v1/runs", "/v1/approvals", "/v1/questions", "/v1/runtime")
PAGES = ("/v1/sessions", "/v1/runs")
HURT = [f"u{number:02}" for number in range(23)]
"""As many sessions as the widest table has columns; each is hurt in another one."""


@pytest.fixture(scope="module")
async def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sessions with one run that is over and one that waits, and one session that nobody hurts."""
    root = tmp_path_factory.mktemp("sound")
    async with opened(root) as house:
        for session_id in (*HURT, "t"):
            await house.session(session_id)
            await house.post(f"/v1/sessions/{session_id}/runs", {"content": "hi"}, key=session_id)
            await house.settled(session_id)
            await house.submit("count once", session_id)
            await house.settled(session_id)
    return root


def columns(path: Path, table: str) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]


def hurt(path: Path, table: str, garbage: str, only: str) -> int:
    """Put garbage into another column of each session's rows; returns how many rows it met."""
    met = 0
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for column, session_id in zip(columns(path, table), HURT, strict=False):
            where = "1" if table in HOMELESS else f"session_id = '{session_id}' AND {only}"
            # The one kind of column that takes nothing but numbers.
            with suppress(sqlite3.IntegrityError):
                met += connection.execute(f"UPDATE OR IGNORE {table} SET {column} = {garbage} WHERE {where}").rowcount
    return met


async def all_is_well_with_the_others(house: House) -> None:
    for path in LISTS:
        response = await house.get(path)
        assert response.status_code == 200, (path, response.text)
        response.json()
    for path in PAGES:
        assert "t" in {row["session_id"] for row in (await house.get(path, page="true", limit="200")).json()["items"]}
    [waiting] = [one for one in (await house.get("/v1/approvals")).json() if one["session_id"] == "t"]
    resolutions = [{"request_id": waiting["request"]["id"], "behavior": "allow"}]
    answer = await house.post(f"/v1/runs/{waiting['run_id']}/approvals", {"resolutions": resolutions})
    assert answer.status_code == 202, answer.text
    await house.settled("t")
    assert (await house.run(waiting["run_id"]))["status"] == "completed"


async def each_trouble_has_a_name(house: House) -> None:
    for session_id in HURT:
        for path in ("", "/events", "/approvals", "/permission-audits"):
            response = await house.get(f"/v1/sessions/{session_id}{path}")
            assert response.status_code == 200 or response.json()["code"] != "internal", (session_id, path)
    for number in range(1, 2 * len(HURT) + 3):
        for path in ("", "/events", "/external-actions"):
            response = await house.get(f"/v1/runs/run-{number}{path}")
            assert response.status_code == 200 or response.json()["code"] != "internal", (number, path)


CASES = [
    ("journal", "position = 2"),
    ("journal", "position = 5"),
    ("runs", "live = 1"),
    ("runs", "live = 0"),
    ("sessions", "1"),
    ("outputs", "1"),
    ("feed", "type = 'run_updated'"),
    ("external_actions", "1"),
    *((table, "1") for table in HOMELESS),
]


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize(("table", "only"), CASES, ids=[" ".join(case) for case in CASES])
async def test_garbage_in_any_column_stays_where_it_is(
    sound: Path, tmp_path: Path, table: str, only: str, garbage: str
) -> None:
    root = tmp_path / "root"
    shutil.copytree(sound, root)
    met = hurt(root / "state" / "kheish.db", table, GARBAGE[garbage], only)
    assert met or table in ("runtime_revisions", "binding_keys", "outputs")
    async with opened(root) as house:
        await all_is_well_with_the_others(house)
        await each_trouble_has_a_name(house)


async def test_an_event_whose_row_is_damaged_is_a_gap_in_the_stream(sound: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(sound, root)
    with closing(sqlite3.connect(root / "state" / "kheish.db", isolation_level=None)) as connection:
        connection.execute("UPDATE feed SET data = '{' WHERE id = 7")
        connection.execute("UPDATE feed SET data = x'ff' WHERE id = 9")
    async with opened(root) as house, house.daemon.board._feed.subscribe(cursor=5) as events:
        each = Each(events)
        seen = [await anext(each) for _ in range(5)]

    assert [event.id for event in seen] == [6, 7, 8, 9, 10]
    assert [event.type == "stream_gap" for event in seen] == [False, True, False, True, False]
    assert decode_object(seen[1].data)["skipped"] == 1
