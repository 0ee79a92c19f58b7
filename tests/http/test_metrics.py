"""GET /metrics after real runs: every family's value, the formats, who may read it, what never shows."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from kheish.store.database import Transaction
from kheish.telemetry.recorder import Recorder
from tests.http.house import DEADLINE_S, House, Json, opened
from tests.telemetry.scraped import OPENMETRICS, Scraped

pytestmark = pytest.mark.anyio

SCRIPT = """
[[rules]]
name = "one command"
when = { turn = 0, user = "work" }
calls = [{ tool = "bash", input = { command = "true" } }]
usage = { input_tokens = 100, output_tokens = 10, cached_input_tokens = 60 }

[[rules]]
name = "two reads side by side, one of which fails"
when = { turn = 0, user = "look" }
calls = [
  { tool = "list_files", input = {} },
  { tool = "read_file", input = { path = "no/such/file" } },
]
usage = { input_tokens = 1, output_tokens = 1 }

[[rules]]
name = "a tool nobody has"
when = { turn = 0, user = "invent" }
calls = [{ tool = "tool_with_a_secret_in_its_name", input = {} }]
usage = { input_tokens = 1, output_tokens = 1 }

[[rules]]
name = "overloaded"
when = { user = "overload" }
error = { kind = "server_overloaded", status = 529, retry_after_ms = 1 }

[fallback]
text = "done"
usage = { input_tokens = 200, output_tokens = 20, cached_input_tokens = 100 }
"""
BYPASS = {"permission_mode": "bypassPermissions"}


async def scrape(house: House) -> Scraped:
    response = await house.client.get("/metrics", headers={"accept": OPENMETRICS})
    assert response.status_code == 200
    return Scraped(response.text)


async def done(house: House, text: str) -> Json:
    run = await house.submit(text)
    await house.settled()
    return await house.run(run["run_id"])


async def test_a_run_with_a_tool_moves_every_counter_it_should(tmp_path: Path) -> None:
    async with opened(tmp_path, script=SCRIPT, **BYPASS) as house:
        await house.session()
        assert (await done(house, "work"))["status"] == "completed"
        found = await scrape(house)

    assert found.value("kheish_runs_accepted_total") == 1
    assert found.by("kheish_runs_ended_total", "status") == {
        "completed": 1,
        "failed": 0,
        "interrupted": 0,
        "cancelled": 0,
    }
    assert found.value("kheish_run_queue_seconds_count") == 1
    assert found.value("kheish_run_duration_seconds_count") == 1
    assert found.value("kheish_turns_total") == 2
    assert found.labelled("kheish_model_calls_total") == {("ok", "one"): 2}
    assert found.value("kheish_model_call_duration_seconds_count", route="one") == 2
    assert found.labelled("kheish_model_tokens_total") == {
        ("input", "one"): 300,
        ("output", "one"): 30,
        ("cached_input", "one"): 160,
    }
    assert found.value("kheish_model_cost_usd_total", route="one") == 0
    assert found.labelled("kheish_tool_calls_total") == {("ok", "bash"): 1}
    assert found.value("kheish_tool_call_duration_seconds_count", tool="bash") == 1


async def test_durations_are_those_of_the_journal(tmp_path: Path) -> None:
    async with opened(tmp_path, script=SCRIPT, **BYPASS) as house:
        await house.session()
        run = await done(house, "work")
        found = await scrape(house)
    times = {"started": run["started_at_ms"], "ended": run["finished_at_ms"]}

    assert found.value("kheish_run_duration_seconds_sum") == pytest.approx((times["ended"] - times["started"]) / 1000)
    work_s = found.value("kheish_model_call_duration_seconds_sum", route="one") + found.value(
        "kheish_tool_call_duration_seconds_sum", tool="bash"
    )
    assert work_s <= found.value("kheish_run_duration_seconds_sum") + 0.001


async def test_tool_calls_are_counted_by_how_they_ended(tmp_path: Path) -> None:
    async with opened(tmp_path, script=SCRIPT) as house:
        await house.session()
        await done(house, "look")
        await done(house, "invent")
        waiting = await done(house, "work")
        denied = [{"request_id": one, "behavior": "deny"} for one in waiting["pending_approval_ids"]]
        await house.post(f"/v1/runs/{waiting['run_id']}/approvals", {"resolutions": denied})
        await house.settled()
        found = await scrape(house)

    assert found.labelled("kheish_tool_calls_total") == {
        ("ok", "list_files"): 1,
        ("error", "read_file"): 1,
        ("denied", "other"): 1,
        ("denied", "bash"): 1,
    }
    measured = found.by("kheish_tool_call_duration_seconds_count", "tool")
    assert measured == {"list_files": 1, "read_file": 1}


async def test_a_call_that_is_stopped_counts_as_interrupted(free: House) -> None:
    await free.session()
    run = await free.submit("hold")
    await free.tool_started(run["run_id"])
    await free.post(f"/v1/runs/{run['run_id']}/cancel")
    found = await scrape(free)

    assert found.labelled("kheish_tool_calls_total") == {("interrupted", "bash"): 1}
    assert found.value("kheish_runs_ended_total", status="cancelled") == 1


async def test_failed_attempts_of_model_calls_are_counted_by_kind(tmp_path: Path) -> None:
    async with opened(tmp_path, script=SCRIPT, **BYPASS) as house:
        await house.session()
        assert (await done(house, "overload"))["status"] == "failed"
        found = await scrape(house)

    assert found.labelled("kheish_model_calls_total") == {("server_overloaded", "one"): 2}
    assert found.value("kheish_runs_ended_total", status="failed") == 1
    assert found.value("kheish_turns_total") == 0


async def test_gauges_say_what_status_and_the_paged_lists_say(house: House) -> None:
    for name in ("held", "asks", "answers", "over"):
        await house.session(name)
    await house.submit("hi", "over")
    await house.submit("break", "over")
    await house.settled("over")
    await house.submit("think forever", "held")
    for _ in range(3):
        await house.submit("later", "held")
    cancelled = await house.submit("later", "held")
    await house.post(f"/v1/runs/{cancelled['run_id']}/cancel")
    await house.submit("three calls", "asks")
    await house.submit("question", "answers")
    await house.settled("asks")
    await house.settled("answers")

    found = await scrape(house)
    status = (await house.get("/v1/status")).json()["runs"]
    listed: dict[str, int] = {}
    cursor = None
    while True:
        page = (
            await house.get("/v1/runs", page="true", limit=2, **({} if cursor is None else {"cursor": cursor}))
        ).json()
        for run in page["items"]:
            listed[run["status"]] = listed.get(run["status"], 0) + 1
        cursor = page["pagination"].get("next_cursor")
        if cursor is None:
            break

    by_status = found.by("kheish_runs", "status")
    assert {name: count for name, count in by_status.items() if count} == listed
    assert {name: status[name] for name in by_status} == by_status
    assert status["total"] == sum(listed.values()) == 9
    assert found.value("kheish_deepest_session_queue") == 3
    assert found.value("kheish_pending_approvals") == status["pending_approval_count"] == 2
    assert found.value("kheish_pending_questions") == status["pending_question_count"] == 1
    assert found.value("kheish_sessions") == 4
    assert found.value("kheish_active_sessions") >= 1
    assert found.value("kheish_ready") == 1


async def test_the_oldest_queued_run_grows_older(house: House) -> None:
    await house.session()
    assert (await scrape(house)).value("kheish_oldest_queued_run_age_seconds") == 0
    await house.submit("think forever")
    await house.submit("later")

    async with asyncio.timeout(DEADLINE_S):
        while (await scrape(house)).value("kheish_oldest_queued_run_age_seconds") == 0:
            pass


async def test_commits_are_measured_by_their_writer(free: House) -> None:
    await free.session()
    await done(free, "count once")
    statistics = free.daemon.board._database.statistics
    found = await scrape(free)

    assert found.value("kheish_commit_duration_seconds_count") == statistics.commits
    assert found.value("kheish_commit_units_count") == statistics.commits
    assert found.value("kheish_commit_units_sum") == statistics.units
    assert found.value("kheish_commit_duration_seconds_sum") > 0
    assert found.value("kheish_write_failures_total") == 0


async def test_event_streams_and_what_their_readers_missed(free: House) -> None:
    feed = free.daemon.board._feed

    def many(transaction: Transaction) -> None:
        for number in range(1500):
            feed.append(transaction, type="trace", session_id="s", run_id="run-1", data={"number": number})

    async with feed.subscribe():
        await free.daemon.board._database.write(many)
        during = await scrape(free)
    after = await scrape(free)

    assert during.value("kheish_event_stream_subscribers") == 1
    assert after.value("kheish_event_stream_subscribers") == 0
    assert after.value("kheish_event_window_events") == 1500
    dropped = after.value("kheish_event_stream_dropped_events_total")
    assert dropped == (await free.get("/v1/status")).json()["events"]["stream_lagged_event_count"] > 0


async def test_recovery_is_counted_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path, **BYPASS) as before:
        for name in ("held", "broken"):
            await before.session(name)
            await before.submit("think forever", name)
            await before.seen("run_updated", lambda event: event["run"]["status"] == "running")
    with sqlite3.connect(tmp_path / "state" / "kheish.db") as connection:
        connection.execute("UPDATE journal SET body = '{' WHERE session_id = 'broken' AND position = 1")
    connection.close()
    async with opened(tmp_path, **BYPASS) as after:
        found = await scrape(after)

    assert found.value("kheish_recovery_resumed_runs_total") == 1
    assert found.value("kheish_recovery_in_doubt_calls_total") == 0
    assert found.value("kheish_recovery_failed_sessions_total") == 1
    assert found.value("kheish_recovery_killed_processes_total") == 0


async def test_a_store_that_cannot_be_read_takes_only_its_own_families_away(free: House, tmp_path: Path) -> None:
    await free.session()
    await done(free, "hi")
    with sqlite3.connect(tmp_path / "state" / "kheish.db") as connection:
        connection.execute("DROP VIEW sound_runs")
        connection.execute("ALTER TABLE runs RENAME TO lost")
    connection.close()
    found = await scrape(free)

    assert found.value("kheish_store_readable") == 0
    assert "kheish_runs" not in found.types
    assert found.value("kheish_turns_total") == 1


async def test_a_broken_observer_touches_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Recorder, transition: object) -> None:
        raise RuntimeError("a bug in counting")

    monkeypatch.setattr(Recorder, "committed", broken)
    async with opened(tmp_path, **BYPASS) as house:
        await house.session()
        run = await done(house, "count once")
        found = await scrape(house)

    assert run["status"] == "completed"
    assert house.count == ["once"]
    assert found.value("kheish_observer_failures_total") == 4
    assert found.value("kheish_runs", status="completed") == 1


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, "text/plain; version=0.0.4"),
        ("*/*", "text/plain; version=0.0.4"),
        ("text/html", "text/plain; version=0.0.4"),
        ("application/openmetrics-text", "application/openmetrics-text; version=1.0.0"),
        (OPENMETRICS, "application/openmetrics-text; version=1.0.0"),
        ("text/plain;version=0.0.4;q=0.2, application/openmetrics-text;version=1.0.0", "application/openmetrics-text"),
        ("application/openmetrics-text; version=x.y", "text/plain; version=0.0.4"),
    ],
)
async def test_the_format_is_the_one_asked_for(house: House, accept: str | None, content_type: str) -> None:
    response = await house.client.get("/metrics", headers={} if accept is None else {"accept": accept})

    assert response.status_code == 200
    assert response.headers["content-type"].startswith(content_type)
    openmetrics = content_type.startswith("application/")
    assert response.text.endswith("# EOF\n") == openmetrics
    assert Scraped(response.text, plain=not openmetrics).value("kheish_ready") == 1


async def test_what_runs_is_said(house: House) -> None:
    found = await scrape(house)

    assert found.types["kheish_build"] == "info"
    assert {"python_info", "process_cpu_seconds", "python_gc_collections"} <= set(found.types)
    assert {kind: found.types[kind] for kind in ("kheish_runs", "kheish_turns", "kheish_commit_units")} == {
        "kheish_runs": "gauge",
        "kheish_turns": "counter",
        "kheish_commit_units": "histogram",
    }


async def test_no_id_no_text_and_no_invented_name_is_a_label(tmp_path: Path) -> None:
    async with opened(tmp_path, script=SCRIPT, **BYPASS) as house:
        await house.session("session-with-a-name")
        for text in ("work hunter2", "invent hunter2"):
            await house.submit(text, "session-with-a-name")
        await house.settled("session-with-a-name")
        body = (await house.client.get("/metrics")).text
        found = await scrape(house)

    assert not any(part in body for part in ("hunter2", "session-with-a-name", "run-1", "secret_in_its_name"))
    assert len(found.label_values()) < 80


async def test_it_is_a_read_for_the_read_only_token_and_for_local_names(tmp_path: Path) -> None:
    async with opened(tmp_path) as house:
        foreign = await house.client.get("/metrics", headers={"host": "evil.example"})
    tokens = {"http_admin_token": "admin-token-hunter2", "http_readonly_token": "reader-token-hunter2"}
    async with opened(tmp_path, **tokens) as house:
        nobody = await house.client.get("/metrics")
        reader = await house.client.get("/metrics", headers={"authorization": "Bearer reader-token-hunter2"})

    assert (foreign.status_code, foreign.json()["code"]) == (403, "host_not_allowed")
    assert (nobody.status_code, reader.status_code) == (401, 200)
