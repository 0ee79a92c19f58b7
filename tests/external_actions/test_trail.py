"""The signed trail of what runs do outside of the daemon: what it says, and who may go on with it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
import stat
from collections.abc import Collection
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from kheish.auth.audit_chain import Fault, SigningKey
from kheish.auth.audit_key import AuditKeyRefused, write_key_file
from kheish.core.jsonvalue import encode
from kheish.core.problems import StoreUnavailable
from kheish.external_actions import store
from tests.auth.test_audit_chain import verified_by_hand
from tests.external_actions.rows import change
from tests.fakes.model_server import Answer, ModelServer, Refusal, Request
from tests.fakes.watching import Each
from tests.http.house import House, opened

pytestmark = pytest.mark.anyio

FREE = {"permission_mode": "bypassPermissions"}
KEY = SigningKey(b"k" * 32)
DEADLINE_S = 30.0


async def records(house: House, run_id: str) -> list[dict[str, Any]]:
    response = await house.get(f"/v1/runs/{run_id}/external-actions")
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()
    before = None
    for record in found:
        before = verified_by_hand(record, before)
    return found


def told(found: list[dict[str, Any]]) -> list[tuple[str, str, str, str | None]]:
    return [(one["phase"], one["kind"], one["target"], one.get("outcome")) for one in found]


def rows(root: Path, query: str, *values: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(root / "state" / "kheish.db")) as connection:
        return connection.execute(query, values).fetchall()


def digests(root: Path, run_id: str) -> dict[str, str]:
    """The digest of each journal entry of a run, as anybody can compute it, to its type."""
    found = rows(root, "SELECT type, body FROM journal WHERE run_id = ?", run_id)
    return {hashlib.sha256(body.encode()).hexdigest(): kind for kind, body in found}


ASKED, ANSWERED = ("request", "provider_call", "route:one/scripted", None), ("response", "provider_call")
MODEL = [ASKED, (*ANSWERED, "route:one/scripted", "succeeded")]
BASH = [("request", "tool_call", "tool:bash", None), ("response", "tool_call", "tool:bash", "succeeded")]


async def done(house: House, text: str, session_id: str = "s") -> str:
    run = await house.submit(text, session_id)
    await house.settled(session_id)
    return str(run["run_id"])


async def thinking(house: House) -> str:
    """A run whose model has begun to answer and does not end."""
    async with asyncio.timeout(DEADLINE_S), house.daemon.board._feed.subscribe(cursor=None) as events:
        run_id = str((await house.submit("think forever"))["run_id"])
        async for event in Each(events):
            if event.type == "output_delta":
                break
    return run_id


async def test_a_model_call_leaves_a_request_and_a_response(tmp_path: Path) -> None:
    async with opened(tmp_path) as house:
        await house.session()
        run_id = await done(house, "hi")
        found = await records(house, run_id)
        view = await house.run(run_id)

    assert told(found) == MODEL
    [asked, answered] = found
    assert {(one["session_id"], one["agent_id"], one["run_id"]) for one in found} == {("s", view["agent_id"], run_id)}
    assert "tool_call_id" not in asked
    assert asked["timestamp_ms"] <= answered["timestamp_ms"]
    assert digests(tmp_path, run_id)[answered["response_digest"]] == "model_replied"
    [grant] = rows(tmp_path, "SELECT grant_id FROM credential_grants")
    assert ("grant_id" in asked, answered["grant_id"]) == (False, grant[0])


WIRED = """
default_route = "main"

[routes.main]
driver = "openai_compatible"
default_model = "m"
base_url = "{url}"
"""


async def test_a_response_names_the_bytes_that_were_sent_and_each_attempt_is_told(tmp_path: Path) -> None:
    def respond(request: Request) -> Refusal | Answer:
        return Refusal(status=429, headers={"retry-after": "0"}) if request.number == 0 else Answer(text="ok")

    with ModelServer(respond) as server:
        async with opened(tmp_path, routes=WIRED.format(url=server.url)) as house:
            await house.session()
            found = await records(house, await done(house, "hi"))
    sent = [hashlib.sha256(encode(request.body)).hexdigest() for request in server.requests]

    assert [one.get("outcome") for one in found] == [None, "failed:rate_limited", None, "succeeded"]
    assert [one.get("request_digest") for one in found] == [None, sent[0], None, sent[1]]
    assert found[1]["grant_id"] == found[3]["grant_id"]


async def test_a_call_that_a_budget_forbids_is_told_as_not_sent(tmp_path: Path) -> None:
    async with opened(tmp_path, model_budget_max_session_output_tokens=1) as house:
        await house.session()
        await done(house, "hi")
        found = await records(house, await done(house, "hi"))

    assert told(found) == [ASKED, (*ANSWERED, "route:one/scripted", "not_sent:model_budget_exceeded")]
    assert "grant_id" not in found[1]


async def test_a_tool_that_acts_outside_is_in_the_trail_and_one_that_reads_is_not(tmp_path: Path) -> None:
    async with opened(tmp_path, **FREE) as house:
        await house.session()
        run_id = await done(house, "three calls")
        found = await records(house, run_id)

    assert told(found) == [*MODEL, *BASH, *BASH, *MODEL]
    bodies = digests(tmp_path, run_id)
    for asked, answered in (found[2:4], found[4:6]):
        assert asked["tool_call_id"] == answered["tool_call_id"]
        assert (bodies[asked["request_digest"]], bodies[answered["response_digest"]]) == (
            "tool_intended",
            "tool_finished",
        )
    assert found[2]["tool_call_id"] != found[4]["tool_call_id"]


async def test_a_call_that_a_human_denies_never_was(tmp_path: Path) -> None:
    async with opened(tmp_path) as house:
        await house.session()
        run_id = await done(house, "count once")
        [pending] = (await house.run(run_id))["pending_approvals"]
        before = await records(house, run_id)
        resolution = {"request_id": pending["id"], "behavior": "deny"}
        await house.post(f"/v1/runs/{run_id}/approvals", {"resolutions": [resolution]})
        await house.settled()
        after = await records(house, run_id)

    assert told(before) == MODEL
    assert told(after) == [*MODEL, *MODEL]


async def test_a_refusal_of_the_provider_is_told_by_its_kind(tmp_path: Path) -> None:
    async with opened(tmp_path) as house:
        await house.session()
        found = await records(house, await done(house, "break"))

    assert told(found) == [ASKED, (*ANSWERED, "route:one/scripted", "failed:invalid_request")]


async def test_the_request_is_durable_while_the_model_thinks_and_a_stop_is_told(tmp_path: Path) -> None:
    async with opened(tmp_path) as house:
        await house.session()
        run_id = await thinking(house)
        during = await records(house, run_id)
        await house.post(f"/v1/runs/{run_id}/cancel")
        await house.settled()
        after = await records(house, run_id)

    assert (told(during), told(after)) == ([ASKED], [ASKED, (*ANSWERED, "route:one/scripted", "interrupted")])


async def test_the_commits_of_a_run_stay_two_and_four(tmp_path: Path) -> None:
    async with opened(tmp_path, **FREE) as house:
        await house.session()
        commits = []
        for text in ("hi", "count once"):
            before = house.daemon.board._database.statistics.commits
            await done(house, text)
            commits.append(house.daemon.board._database.statistics.commits - before)

    assert commits == [2, 4]


async def test_unknown_runs_are_not_found_and_queued_ones_have_done_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as house:
        await house.session()
        await house.submit("think forever")
        queued = (await house.submit("hi"))["run_id"]
        missing = await house.get("/v1/runs/run-77/external-actions")
        found = await records(house, queued)

    assert (missing.status_code, missing.json()["code"]) == (404, "run_not_found")
    assert found == []


# Tampering


async def damaged(house: House, run_id: str) -> str:
    response = await house.get(f"/v1/runs/{run_id}/external-actions")
    assert (response.status_code, response.json()["domain"]) == (500, "audit")
    assert response.json()["code"] == "external_actions_damaged"
    return str(response.json()["detail"])


TAMPERED = {
    "UPDATE external_actions SET target = 'tool:bbsh' WHERE run_id = 'run-1' AND position = 3": "record 3 ",
    "UPDATE external_actions SET target = x'ff' WHERE run_id = 'run-1' AND position = 3": "record 3:",
    "UPDATE external_actions SET timestamp_ms = 'x' WHERE run_id = 'run-1' AND position = 3": "record 3:",
    "DELETE FROM external_actions WHERE run_id = 'run-1' AND position = 6": "record 6:",
    "DELETE FROM external_actions WHERE run_id = 'run-1' AND position = 2": "record 2 ",
    "DELETE FROM external_actions WHERE run_id = 'run-1'": "record 1:",
    "UPDATE external_actions SET signature = '00' WHERE run_id = 'run-1' AND position = 5": "record 5 ",
    "UPDATE external_actions SET key_id = '00' WHERE run_id = 'run-1' AND position = 1": "record 1 ",
    "UPDATE external_action_checkpoints SET record_count = 5 WHERE bucket = 'run-1'": "the checkpoint:",
    "UPDATE external_action_checkpoints SET record_count = x'ff' WHERE bucket = 'run-1'": "the checkpoint:",
    "DELETE FROM external_action_checkpoints WHERE bucket = 'run-1'": "the checkpoint:",
}


@pytest.mark.parametrize("statement", TAMPERED)
async def test_what_was_changed_is_not_shown_and_the_first_bad_record_is_named(tmp_path: Path, statement: str) -> None:
    async with opened(tmp_path, **FREE) as house:
        await house.session()
        run_id, other = await done(house, "count once"), await done(house, "hi")
        assert (run_id, len(await records(house, run_id))) == ("run-1", 6)
        change(tmp_path, statement)

        assert TAMPERED[statement] in await damaged(house, run_id)
        assert told(await records(house, other)) == MODEL


async def test_a_run_whose_trail_was_changed_does_nothing_more(tmp_path: Path) -> None:
    async with opened(tmp_path) as house:
        await house.session()
        run_id = await done(house, "count once")
    change(tmp_path, "UPDATE external_actions SET target = 'route:two/scripted' WHERE position = 1")
    async with opened(tmp_path) as house:
        [pending] = (await house.run(run_id))["pending_approvals"]
        resolution = {"request_id": pending["id"], "behavior": "allow"}
        await house.post(f"/v1/runs/{run_id}/approvals", {"resolutions": [resolution]})
        await house.settled()
        view = await house.run(run_id)

        assert (view["status"], house.count) == ("failed", [])
        assert "record 1 " in await damaged(house, run_id)
        assert told(await records(house, await done(house, "hi"))) == MODEL


async def test_a_record_that_is_lost_while_its_run_waits_ends_the_run(tmp_path: Path) -> None:
    async with opened(tmp_path) as house:
        await house.session()
        run_id = await done(house, "count once")
        change(tmp_path, "DELETE FROM external_actions WHERE position = 2")
        [pending] = (await house.run(run_id))["pending_approvals"]
        resolution = {"request_id": pending["id"], "behavior": "allow"}
        await house.post(f"/v1/runs/{run_id}/approvals", {"resolutions": [resolution]})
        await house.settled()

        assert ((await house.run(run_id))["status"], house.count) == ("failed", [])


async def test_a_commit_that_failed_has_no_chain_read_from_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    check = store.check_bucket

    def watched(connection: sqlite3.Connection, bucket: str, keys: Collection[str]) -> Fault | None:
        read.append(bucket)
        return check(connection, bucket, keys)

    monkeypatch.setattr(store, "check_bucket", watched)
    async with opened(tmp_path) as house:
        await house.session()
        run_id = await done(house, "count once")
        database = house.daemon.board._feed._database
        with pytest.raises(StoreUnavailable):
            await database.write(lambda transaction: transaction.connection.execute("INSERT INTO nothing VALUES (1)"))
        [pending] = (await house.run(run_id))["pending_approvals"]
        resolution = {"request_id": pending["id"], "behavior": "allow"}
        await house.post(f"/v1/runs/{run_id}/approvals", {"resolutions": [resolution]})
        await house.settled()

        assert told(await records(house, run_id)) == [*MODEL, *BASH, *MODEL]
    assert read == []


# Restarts and concurrency


async def test_a_chain_goes_on_over_restarts(tmp_path: Path) -> None:
    async with opened(tmp_path) as house:
        await house.session()
        run_id = await done(house, "two waves")
    for wave in ("one", "two"):
        async with opened(tmp_path) as house:
            [pending] = (await house.run(run_id))["pending_approvals"]
            resolution = {"request_id": pending["id"], "behavior": "allow"}
            await house.post(f"/v1/runs/{run_id}/approvals", {"resolutions": [resolution]})
            await house.settled()
            assert house.count[-1] == wave
    async with opened(tmp_path) as house:
        found = await records(house, run_id)

    assert told(found) == [*MODEL, *BASH, *MODEL, *BASH, *MODEL]
    assert len({one["key_id"] for one in found}) == 1


async def test_a_run_that_was_cut_off_asks_again_and_says_so(tmp_path: Path) -> None:
    async with opened(tmp_path) as house:
        await house.session()
        run_id = await thinking(house)
    async with opened(tmp_path) as house:
        await house.seen("trace", lambda event: event["trace"]["kind"] == "recovery")
        found = await records(house, run_id)

    assert told(found) == [ASKED, ASKED]


async def test_many_runs_at_once_have_a_chain_each(tmp_path: Path) -> None:
    async with opened(tmp_path, **FREE) as house:
        names = [f"s{number}" for number in range(24)]
        for name in names:
            await house.session(name)
        runs = await asyncio.gather(*(house.submit("count once", name) for name in names for _ in range(2)))
        for name in names:
            await house.settled(name)
        found = [told(await records(house, run["run_id"])) for run in runs]

    assert found == [[*MODEL, *BASH, *MODEL]] * 48


# The key


async def refused(root: Path, **options: Any) -> str:
    with pytest.raises(AuditKeyRefused) as caught:
        async with opened(root, **options):
            raise AssertionError("it started")
    return caught.value.detail


async def warned(house: House) -> bool:
    health = (await house.get("/v1/status")).json()["health"]
    return "audit_key_in_state_root" in {warning["code"] for warning in health["warnings"]}


async def test_a_key_is_made_below_the_state_root_with_a_warning(tmp_path: Path) -> None:
    async with opened(tmp_path) as house:
        path = tmp_path / "state" / "audit-signing.key"
        document = json.loads(path.read_bytes())

        assert await warned(house)
    assert (document["algorithm"], len(document["secret_key_hex"])) == ("ed25519", 64)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("how", ["flag", "environment"])
async def test_a_key_elsewhere_is_no_reason_to_warn_and_makes_no_file(tmp_path: Path, how: str) -> None:
    write_key_file(tmp_path / "keys" / "k", KEY)
    flag = {"audit_signing_key_file": str(tmp_path / "keys" / "k")} if how == "flag" else {}
    variable = {} if flag else {"KHEISH_EXTERNAL_ACTION_AUDIT_SIGNING_KEY": KEY.secret_hex}
    async with opened(tmp_path, environ=variable, **flag) as house:
        await house.session()
        found = await records(house, await done(house, "hi"))

        assert not await warned(house)
    assert {one["key_id"] for one in found} == {KEY.key_id}
    assert not (tmp_path / "state" / "audit-signing.key").exists()


async def test_a_named_key_below_the_state_root_is_warned_about(tmp_path: Path) -> None:
    write_key_file(tmp_path / "state" / "mine.key", KEY)
    async with opened(tmp_path, audit_signing_key_file=str(tmp_path / "state" / "mine.key")) as house:
        assert await warned(house)


async def test_a_lost_key_keeps_the_daemon_from_starting_until_it_is_back(tmp_path: Path) -> None:
    async with opened(tmp_path) as house:
        await house.session()
        run_id = await done(house, "hi")
    key = tmp_path / "state" / "audit-signing.key"
    kept = key.read_bytes()
    key.unlink()
    detail = await refused(tmp_path)
    assert str(key) in detail
    assert not key.exists()

    key.write_bytes(kept)
    key.chmod(0o600)
    async with opened(tmp_path) as house:
        assert told(await records(house, run_id)) == MODEL


async def test_another_key_is_refused_once_there_are_records(tmp_path: Path) -> None:
    write_key_file(tmp_path / "k", KEY)
    async with opened(tmp_path) as house:
        await house.session()
    async with opened(tmp_path, audit_signing_key_file=str(tmp_path / "k")) as house:
        await done(house, "hi")

    assert KEY.key_id in await refused(tmp_path)


async def test_a_key_that_cannot_be_used_keeps_the_daemon_from_starting(tmp_path: Path) -> None:
    (tmp_path / "k").write_text("no key")
    (tmp_path / "k").chmod(0o600)
    assert "audit signing key is 32 bytes" in await refused(tmp_path, audit_signing_key_file=str(tmp_path / "k"))

    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state" / "audit-signing.key").write_text("{}")
    assert "audit-signing.key" in await refused(tmp_path)
