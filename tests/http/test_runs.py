"""Runs over HTTP (sessions-and-runs cases 2, 3, 4, 9, 11, 16, 20)."""

from __future__ import annotations

import asyncio
import base64
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.http.house import DEADLINE_S, House, opened

pytestmark = pytest.mark.anyio


async def test_a_run_goes_from_accepted_to_completed_and_answers(house: House) -> None:
    await house.session()
    accepted = await house.submit("hi", metadata={"ticket": 7}, source_plugin="test", actor_id="ann")
    await house.settled()
    run = await house.run(accepted["run_id"])

    assert accepted["run_id"] == "run-1"
    assert run["status"] == "completed"
    assert run["input_metadata"] == {"ticket": 7}
    assert run["request"] == {
        "source_plugin": "test",
        "source_kind": "api",
        "actor_id": "ann",
        "text_preview": "hi",
        "provider": "one",
        "model": "model-one",
    }
    assert await house.event_types("run-1") == ["accepted", "queued", "started", "output", "completed"]
    assert run["outputs"] == [
        {
            "session_id": "s",
            "run_id": "run-1",
            "content": "You said: hi",
            "source_kind": "assistant_text",
            "address": None,
        }
    ]


async def test_a_run_without_tools_costs_two_commits(house: House) -> None:
    await house.session()
    before = house.daemon.board._database.statistics.commits
    await house.submit("hi")
    await house.settled()

    assert house.daemon.board._database.statistics.commits - before == 2


async def test_a_run_with_one_tool_costs_four_commits(free: House) -> None:
    await free.session()
    before = free.daemon.board._database.statistics.commits
    await free.submit("count once")
    await free.settled()

    assert free.count == ["once"]
    assert free.daemon.board._database.statistics.commits - before == 4


async def test_the_queue_keeps_the_order_of_submission(free: House) -> None:
    await free.session()
    a = await free.submit("hold")
    b = await free.submit("b")
    c = await free.submit("c")
    await free.tool_started(a["run_id"])
    cancelled = await free.post(f"/v1/runs/{b['run_id']}/cancel")
    moved_up = await free.run(c["run_id"])
    free.release()
    await free.settled()

    assert (b["queued_position"], c["queued_position"]) == (1, 2)
    assert cancelled.json()["status"] == "cancelled"
    assert moved_up["queued_position"] == 1
    done = [await free.run(run["run_id"]) for run in (a, c)]
    assert [run["status"] for run in done] == ["completed", "completed"]
    assert done[0]["finished_at_ms"] <= done[1]["started_at_ms"]
    assert await free.event_types(c["run_id"]) == ["accepted", "queued", "started", "output", "completed"]
    queued = (await free.get(f"/v1/runs/{c['run_id']}/events")).json()[1]["event"]
    assert queued == {"type": "queued", "position": 2}


async def test_inline_input_is_refused_while_the_session_is_busy(free: House) -> None:
    await free.session()
    await free.submit("hold")
    busy = await free.post("/v1/sessions/s/input", {"content": "now"})

    assert (busy.status_code, busy.json()["domain"], busy.json()["code"]) == (409, "sessions", "session_busy")
    assert await free.run_count() == 1


async def test_inline_input_returns_when_the_run_is_done(house: House) -> None:
    await house.session()
    done = await house.post("/v1/sessions/s/input", {"input_items": [{"type": "text", "text": "hi"}]})

    assert done.status_code == 200
    assert [output["content"] for output in done.json()["outputs"]] == ["You said: hi"]
    assert done.json()["snapshot"]["last_assistant_message"] == "You said: hi"
    assert done.json()["snapshot"]["agent"]["status"] == "completed"


async def test_inline_input_returns_when_the_run_waits_for_a_human(house: House) -> None:
    await house.session()
    waiting = await house.post("/v1/sessions/s/input", {"content": "count once"})

    snapshot = waiting.json()["snapshot"]
    assert snapshot["agent"]["status"] == "waiting_for_approval"
    assert [request["tool_name"] for request in snapshot["pending_approvals"]] == ["bash"]


@pytest.mark.parametrize("text", ["hold", "count once", "question", "think forever"])
async def test_a_live_run_is_cancelled_once(house: House, text: str) -> None:
    if text == "hold":
        await house.post("/v1/runtime/permission-mode", {"mode": "bypassPermissions"})
    await house.session()
    run = await house.submit(text)
    if text in ("count once", "question"):
        await house.settled()
    first = await house.post(f"/v1/runs/{run['run_id']}/cancel")
    events = await house.event_types(run["run_id"])
    second = await house.post(f"/v1/runs/{run['run_id']}/cancel")

    assert first.status_code == 200
    assert first.json()["status"] == "cancelled"
    assert first.json()["finished_at_ms"]
    assert "error" not in first.json()
    assert second.json() == first.json()
    assert events[-1] == "cancelled"
    assert await house.event_types(run["run_id"]) == events
    assert house.count == []


async def test_cancelling_a_run_that_is_over_changes_nothing(house: House) -> None:
    await house.session()
    await house.submit("hi")
    await house.settled()
    before = await house.run("run-1")
    after = await house.post("/v1/runs/run-1/cancel")

    assert (after.status_code, after.json()) == (200, before)


async def test_a_failed_run_says_why_without_the_providers_words(house: House) -> None:
    await house.session()
    await house.submit("break")
    await house.settled()
    run = await house.run("run-1")

    assert run["status"] == "failed"
    assert run["error"]
    assert (await house.event_types("run-1"))[-1] == "failed"
    assert (await house.get("/v1/sessions/s")).json()["snapshot"]["last_error"] == run["error"]


async def test_a_required_file_that_is_written_lets_the_run_complete(free: House) -> None:
    await free.session()
    requirement = {"type": "workspace_file", "path": "out/a.md"}
    run = await free.submit("write the file", completion_requirements=[requirement])
    await free.settled()

    assert (await free.run(run["run_id"]))["status"] == "completed"
    assert (free.workspace / "out/a.md").read_text() == "done"


async def test_a_required_file_that_is_never_written_fails_the_run_after_two_more_turns(free: House) -> None:
    await free.session()
    requirement = {"type": "workspace_file", "path": "out/a.md"}
    run = await free.submit("just talk", completion_requirements=[requirement], metadata="note")
    await free.settled()
    view = await free.run(run["run_id"])

    assert view["status"] == "failed"
    assert view["error"].startswith("run ended without satisfying completion requirements:")
    assert "out/a.md" in view["error"]
    assert view["input_metadata"] == "note"
    journal = (await free.get("/v1/sessions/s/events")).json()["session"]["journal"]
    messages = [entry["event"]["message"] for entry in journal if entry["event"]["type"] == "message_appended"]
    assert [message["role"] for message in messages].count("assistant") == 3


async def test_emitted_and_final_outputs_are_both_kept(free: House) -> None:
    await free.session()
    await free.submit("emit")
    await free.settled()
    outputs = (await free.run("run-1"))["outputs"]

    assert [output["source_kind"] for output in outputs] == ["emit_output", "assistant_text"]
    assert outputs[0]["content"] == "half way"


async def test_lists_keep_the_newest_and_pages_walk_all(house: House) -> None:
    for index in range(5):
        await house.session(f"s{index}")
        await house.submit("hi", f"s{index}")
        await house.settled(f"s{index}")
    newest = [run["run_id"] for run in (await house.get("/v1/runs", limit=2)).json()]
    walked: list[str] = []
    params: dict[str, object] = {"page": "true", "limit": 2}
    while True:
        page = (await house.get("/v1/runs", **params)).json()
        walked += [run["run_id"] for run in page["items"]]
        if not page["pagination"]["has_more"]:
            break
        params = {"cursor": page["pagination"]["next_cursor"], "limit": 2}

    assert newest == ["run-4", "run-5"]
    assert sorted(walked) == [f"run-{number}" for number in range(1, 6)]
    assert page["pagination"] == {
        "limit": 2,
        "total_count": 5,
        "has_more": False,
        "next_cursor": None,
        "order": "submitted_at_ms_asc,run_id_asc",
    }
    of_session = (await house.get("/v1/runs", session_id="s3")).json()
    assert [run["run_id"] for run in of_session] == ["run-4"]


async def test_pages_in_descending_order_are_the_reverse(house: House) -> None:
    await house.session()
    for _ in range(3):
        await house.submit("hi")
        await house.settled()
    page = (await house.get("/v1/runs", page="true", limit=2, order="desc")).json()
    rest = (await house.get("/v1/runs", cursor=page["pagination"]["next_cursor"], limit=2, order="desc")).json()

    assert page["pagination"]["order"] == "submitted_at_ms_desc,run_id_desc"
    assert [run["run_id"] for run in page["items"] + rest["items"]] == ["run-3", "run-2", "run-1"]


def cursor(key: str) -> str:
    return base64.urlsafe_b64encode(key.encode()).rstrip(b"=").decode()


async def test_pages_go_by_acceptance_whatever_the_clock_said_and_whatever_was_damaged(tmp_path: Path) -> None:
    """The cursors are those that older releases gave out."""
    async with opened(tmp_path) as house:
        for number in range(1, 13):
            await house.session(f"s{number % 2}")
            await house.submit("hi", f"s{number % 2}")
            await house.settled(f"s{number % 2}")
    with closing(sqlite3.connect(tmp_path / "state" / "kheish.db", isolation_level=None)) as connection:
        connection.execute("UPDATE runs SET submitted_at_ms = 5 - number")
        connection.execute("UPDATE runs SET run_id = 'x' || run_id WHERE number = 4")
    numbers = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    async with opened(tmp_path) as house:
        for order, expected in (("asc", numbers), ("desc", numbers[::-1])):
            for of_session in ({}, {"session_id": "s0"}):
                walked: list[int] = []
                params: dict[str, object] = {"page": "true", "limit": 1, "order": order, **of_session}
                while params:
                    page = (await house.get("/v1/runs", **params)).json()
                    walked += [int(run["run_id"].rpartition("-")[2]) for run in page["items"]]
                    following = page["pagination"]["next_cursor"]
                    params = {**params, "cursor": following} if following else {}
                assert walked == [number for number in expected if not of_session or number % 2 == 0]
        newest = [run["run_id"] for run in (await house.get("/v1/runs", limit=2)).json()]
        after = (await house.get("/v1/runs", cursor=cursor(f"{991:020d}:run-9"), limit=1)).json()
        ends = [await house.get("/v1/runs", cursor=cursor(f"{5:020d}:run-{n}")) for n in ("9" * 19, "-" + "9" * 19)]

    assert newest == ["run-11", "run-12"]
    assert [run["run_id"] for run in after["items"]] == ["run-10"]
    assert after["pagination"]["next_cursor"] == cursor(f"{-5:020d}:run-10")
    assert [len(page.json()["items"]) for page in ends] == [0, 12]


async def test_runs_that_waited_in_one_queue_have_their_own_outputs(free: House) -> None:
    await free.session()
    await free.session("t")
    for text, session_id in (("hold", "s"), ("emit", "s"), ("emit", "t"), ("emit", "s"), ("hi", "s")):
        await free.submit(text, session_id)
    free.release()
    await free.settled()
    await free.settled("t")
    listed = (await free.get("/v1/runs")).json()
    outputs = {run["run_id"]: [output["content"] for output in run["outputs"]] for run in listed}

    assert {output["run_id"] for run in listed for output in run["outputs"]} == set(outputs)
    assert [len(outputs[f"run-{number}"]) for number in range(1, 6)] == [1, 2, 2, 2, 1]
    assert [found[0] for found in outputs.values()].count("half way") == 3
    for run in listed:
        assert (await free.run(run["run_id"]))["outputs"] == run["outputs"]


async def test_live_runs_come_first_when_asked(free: House) -> None:
    await free.session("held")
    held = await free.submit("hold", "held")
    await free.session("quick")
    for _ in range(3):
        await free.submit("hi", "quick")
    await free.settled("quick")
    listed = (await free.get("/v1/runs", limit=2, priority_active="true")).json()

    assert [run["run_id"] for run in listed] == [held["run_id"], "run-4"]


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"limit": "0"}, "invalid_limit"),
        ({"limit": "-1"}, "invalid_limit"),
        ({"limit": "many"}, "invalid_limit"),
        ({"page": "true", "order": "up"}, "invalid_order"),
        ({"cursor": "***"}, "invalid_cursor"),
        ({"cursor": ""}, "invalid_cursor"),
        ({"cursor": "aGVsbG8"}, "invalid_cursor"),
        ({"cursor": "é"}, "invalid_cursor"),
        ({"cursor": "MDAwMDAwMDAwMDAwMDAwMDA5OTE6cnVuLXg"}, "invalid_cursor"),
    ],
)
async def test_bad_paging_is_refused(house: House, params: dict[str, str], code: str) -> None:
    response = await house.get("/v1/runs", **params)

    assert (response.status_code, response.json()["domain"], response.json()["code"]) == (400, "pagination", code)


async def test_a_large_limit_is_clamped(house: House) -> None:
    assert (await house.get("/v1/runs", page="true", limit=500)).json()["pagination"]["limit"] == 100


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("GET", "/events", None),
        ("GET", "/stream", None),
        ("POST", "/cancel", None),
        ("POST", "/approvals", {"resolutions": [{"request_id": "a", "behavior": "allow"}]}),
        ("POST", "/questions", {"resolution": {"request_id": "a", "declined": True}}),
        ("POST", "/questions/q/cancel", None),
    ],
)
async def test_an_unknown_run_is_not_found(house: House, method: str, path: str, body: object) -> None:
    response = await house.client.request(method, f"/v1/runs/run-99{path}", json=body)

    assert response.status_code == 404
    assert (response.json()["domain"], response.json()["code"]) == ("runs", "run_not_found")


async def test_run_numbers_go_on_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path) as before:
        await before.session()
        await before.submit("hi")
        await before.settled()
        old = await before.run("run-1")
    async with opened(tmp_path) as after:
        assert await after.run("run-1") == old
        assert (await after.submit("hi"))["run_id"] == "run-2"


async def test_inline_input_waits_for_its_own_run_and_not_for_the_queue_behind_it(free: House) -> None:
    await free.session()
    inline = asyncio.create_task(free.post("/v1/sessions/s/input", {"content": "hold"}))
    await free.tool_started("run-1")
    behind = await free.submit("think forever")
    free.release()
    async with asyncio.timeout(DEADLINE_S):
        done = await inline

    assert behind["queued_position"] == 1
    assert done.status_code == 200
    assert (await free.run("run-1"))["status"] == "completed"
    assert (await free.run(behind["run_id"]))["status"] == "running"


async def test_a_number_no_store_can_hold_is_a_tool_error_and_the_run_goes_on(tmp_path: Path) -> None:
    script = """
[[rules]]
when = { turn = 0 }
calls = [
  { tool = "read_file", input = { path = "a.txt", start_line = 1e20 } },
  { tool = "ask_user_question", input = { expires_after_ms = 9223372036854775807, questions = [{ question = "Q?" }] } },
]
[fallback]
text = "${results}"
"""
    async with opened(tmp_path, script=script) as house:
        (house.workspace / "a.txt").write_text("hello")
        await house.session()
        run = await house.submit("go")
        await house.settled()
        view = await house.run(run["run_id"])

    assert view["status"] == "completed"
    assert "`start_line` must be a whole number" in view["outputs"][0]["content"]
    assert "year 9999" in view["outputs"][0]["content"]


async def test_pruning_counts_what_is_old_enough_and_keeps_every_run(house: House) -> None:
    await house.session()
    run = await house.submit("hi")
    await house.settled()
    done = (await house.run(run["run_id"]))["finished_at_ms"]
    report = (await house.post("/v1/runs/prune", {"older_than_ms": 1, "session_id": "s", "dry_run": True})).json()
    real = await house.post("/v1/runs/prune", {"older_than_ms": 1})
    far = (await house.post("/v1/runs/prune", {"older_than_ms": 10**12})).json()

    assert report["cutoff_ms"] == report["now_ms"] - 1
    assert report["matched_run_count"] == (1 if done <= report["cutoff_ms"] else 0)
    assert (report["dry_run"], report["limit"], report["candidate_run_ids"]) == (True, 100, [])
    assert real.status_code == 200
    assert far["matched_run_count"] == 0
    assert await house.run_count() == 1


@pytest.mark.parametrize("body", [{"older_than_ms": 0}, {"older_than_ms": -5}, {"older_than_ms": 5, "limit": 0}])
async def test_a_retention_that_is_not_positive_is_refused(house: House, body: dict[str, int]) -> None:
    refused = await house.post("/v1/runs/prune", body)

    assert (refused.status_code, refused.json()["code"]) == (400, "run_retention_invalid_request")
