"""Sessions over HTTP (sessions-and-runs cases 1, 8, 10, 17, 20)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from kheish.engine.ports import Transition
from kheish.sessions import store
from tests.http.house import House, opened

pytestmark = pytest.mark.anyio


async def test_a_session_is_created_once_and_found_again(house: House) -> None:
    created = await house.post("/v1/sessions", {})
    again = await house.post("/v1/sessions", {"session_id": created.json()["session_id"]})

    assert (created.status_code, again.status_code) == (201, 201)
    assert created.json()["session_id"]
    assert again.json()["agent_id"] == created.json()["agent_id"]
    assert created.json()["outputs"] == []
    assert created.json()["snapshot"]["agent"]["status"] == "idle"


@pytest.mark.parametrize("session_id", ["", "  ", ".", "..", "x" * 513])
async def test_ids_that_name_nothing_are_refused(house: House, session_id: str) -> None:
    response = await house.post("/v1/sessions", {"session_id": session_id})

    assert (response.status_code, response.json()["code"]) == (400, "bad_request")


async def test_a_session_that_exists_keeps_its_scopes(house: House) -> None:
    scope = {"skill_allow": [" b ", "a", "a", ""], "skill_deny": ["x", "*"]}
    first = await house.post("/v1/sessions", {"session_id": "s", "capability_scope": scope})
    same = await house.post("/v1/sessions", {"session_id": "s", "capability_scope": scope})
    other = await house.post("/v1/sessions", {"session_id": "s", "capability_scope": {"skill_allow": ["c"]}})

    assert first.json()["capability_scope"] == {"skill_allow": ["a", "b"], "skill_deny": ["*"]}
    assert same.status_code == 201
    assert (other.status_code, other.json()["code"]) == (409, "conflict")


async def test_a_persona_is_refused_while_there_are_none(house: House) -> None:
    new = await house.post("/v1/sessions", {"session_id": "s", "persona_id": "p"})
    assert (new.status_code, new.json()["code"]) == (400, "personas_unavailable")
    assert (await house.get("/v1/sessions/s")).status_code == 404

    await house.session("s")
    reused = await house.post("/v1/sessions", {"session_id": "s", "persona_id": "p"})
    assert (reused.status_code, reused.json()["code"]) == (409, "conflict")


async def test_the_route_policy_decides_unless_the_run_does_and_never_moves_a_queued_run(free: House) -> None:
    await free.session()
    held = await free.submit("hold")
    queued = await free.submit("queued before the change")
    policy = {"route_policy": {"provider": "two", "generation": {"temperature": 0.5, "tool_choice": "auto"}}}
    changed = await free.client.put("/v1/sessions/s/route-policy", json=policy)
    after = await free.submit("queued after the change")
    explicit = await free.submit("explicit", provider="one")
    free.release()
    await free.settled()

    assert changed.json()["route_policy"] == {"provider": "two", "generation": {"temperature": 0.5}}
    used = {run_id: (await free.run(run_id))["request"]["provider"] for run_id in ids(held, queued, after, explicit)}
    assert list(used.values()) == ["one", "one", "two", "one"]
    assert (await free.run(after["run_id"]))["request"]["model"] == "model-two"


async def test_a_cleared_route_policy_is_gone(house: House) -> None:
    await house.session()
    await house.post("/v1/sessions/s/route-policy", {"route_policy": {"provider": "two"}})
    cleared = await house.client.delete("/v1/sessions/s/route-policy")

    assert "route_policy" not in cleared.json()
    assert (await house.submit("hi"))["request"]["provider"] == "one"


async def test_a_policy_with_an_unknown_route_makes_no_run(house: House) -> None:
    await house.session()
    await house.post("/v1/sessions/s/route-policy", {"route_policy": {"provider": "gone"}})
    refused = await house.post("/v1/sessions/s/runs", {"content": "hi"})

    assert (refused.status_code, refused.json()["code"]) == (400, "unknown_route")
    assert await house.run_count() == 0


async def test_interrupt_stops_the_active_run_and_says_whether_there_was_one(free: House) -> None:
    await free.session()
    idle = await free.post("/v1/sessions/s/interrupt")
    run = await free.submit("hold")
    await free.tool_started(run["run_id"])
    stopped = await free.post("/v1/sessions/s/interrupt")
    view = await free.run(run["run_id"])

    assert (idle.status_code, idle.json()["interrupted"]) == (200, False)
    assert (stopped.status_code, stopped.json()["interrupted"]) == (200, True)
    assert stopped.json()["snapshot"]["agent"]["status"] == "idle"
    assert view["status"] == "interrupted"
    assert "error" not in view
    assert (await free.seen("interrupted"))["session_id"] == "s"


async def test_end_stops_everything_and_leaves_the_session_usable(free: House) -> None:
    await free.session()
    active = await free.submit("hold")
    queued = await free.submit("later")
    await free.tool_started(active["run_id"])
    ended = await free.post("/v1/sessions/s/end", {"reason": "enough"})
    statuses = [(await free.run(run["run_id"]))["status"] for run in (active, queued)]
    again = await free.submit("hi again")
    await free.settled()

    assert ended.status_code == 200
    assert statuses == ["interrupted", "cancelled"]
    assert (await free.run(again["run_id"]))["status"] == "completed"


async def test_end_needs_a_json_body(house: House) -> None:
    await house.session()
    response = await house.post("/v1/sessions/s/end")

    assert (response.status_code, response.json()["code"]) == (422, "daemon_error")


async def test_reply_targets_are_normalised_and_captured_by_a_run_when_it_is_made(free: House) -> None:
    await free.session()
    targets = [
        {"plugin": "mail", "address": "a@b"},
        {"type": "raw", "plugin": "mail", "address": "a@b"},
        {"type": "telegram", "connector": "bot", "chat_id": -5},
    ]
    changed = await free.post("/v1/sessions/s/reply-targets", {"reply_targets": targets})
    run = await free.submit("hold")
    await free.tool_started(run["run_id"])
    await free.client.put("/v1/sessions/s/reply-targets", json={"reply_targets": [{"plugin": "x", "address": "y"}]})
    free.release()
    await free.settled()

    handles = [
        {"plugin": "mail", "address": "a@b"},
        {"plugin": "telegram", "address": '{"connector":"bot","chat_id":-5}'},
    ]
    assert changed.json()["reply_targets"] == handles
    journal = (await free.get("/v1/sessions/s/events")).json()["session"]["journal"]
    assert journal[0]["event"]["input"]["reply_targets"] == handles
    assert (await free.get("/v1/sessions/s/reply-targets")).json() == {
        "reply_targets": [{"plugin": "x", "address": "y"}]
    }


async def test_cleared_reply_targets_stay_cleared_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path) as before:
        await before.session()
        await before.post("/v1/sessions/s/reply-targets", {"reply_targets": [{"plugin": "x", "address": "y"}]})
        await before.client.delete("/v1/sessions/s/reply-targets")
        assert (await before.get("/v1/sessions/s/reply-targets")).json() == {}
    async with opened(tmp_path) as after:
        assert (await after.get("/v1/sessions/s/reply-targets")).json() == {}


async def test_the_session_tells_what_happened_in_it(free: House) -> None:
    await free.session()
    await free.submit("emit")
    await free.settled()
    events = (await free.get("/v1/sessions/s/events")).json()

    types = [entry["event"]["type"] for entry in events["session"]["journal"]]
    assert types == [
        "input_received",
        "message_appended",
        "tool_call_started",
        "tool_call_finished",
        "message_appended",
    ]
    offsets = [entry["offset"] for entry in events["session"]["journal"]]
    assert offsets == sorted(set(offsets))
    assert [output["source_kind"] for output in events["daemon_outputs"]] == ["emit_output", "assistant_text"]
    assert events["run_events"] == (await free.get("/v1/runs/run-1/events")).json()
    [audit] = events["session"]["audits"]
    assert (audit["tool_name"], audit["decision"], audit["matched_rule_pattern"]) == ("emit_output", "allow", "*")
    assert (await free.get("/v1/sessions/s/permission-audits")).json() == [audit]


async def test_sessions_are_listed_by_id_bare_or_in_pages(house: House) -> None:
    for name in ("c", "a", "b"):
        await house.session(name)
    bare = [session["session_id"] for session in (await house.get("/v1/sessions", limit=2)).json()]
    page = (await house.get("/v1/sessions", page="true", limit=2)).json()
    rest = (await house.get("/v1/sessions", cursor=page["pagination"]["next_cursor"])).json()

    assert bare == ["a", "b"]
    assert [session["session_id"] for session in page["items"] + rest["items"]] == ["a", "b", "c"]
    assert page["pagination"]["order"] == "session_id_asc"
    assert (page["pagination"]["total_count"], rest["pagination"]["has_more"]) == (3, False)
    assert (await house.get("/v1/sessions", persona_id="p")).json() == []
    assert (await house.get("/v1/sessions", limit="0")).json()["code"] == "invalid_limit"


UNKNOWN_SESSION: list[tuple[str, str, object]] = [
    ("GET", "", None),
    ("GET", "/events", None),
    ("GET", "/stream", None),
    ("GET", "/reply-targets", None),
    ("GET", "/questions", None),
    ("GET", "/permission-audits", None),
    ("GET", "/approvals", None),
    ("POST", "/input", {"content": "x"}),
    ("POST", "/runs", {"content": "x"}),
    ("POST", "/runs", {}),
    ("POST", "/interrupt", None),
    ("POST", "/end", {}),
    ("POST", "/route-policy", {"route_policy": None}),
    ("PUT", "/route-policy", {"route_policy": None}),
    ("DELETE", "/route-policy", None),
    ("POST", "/reply-targets", {"reply_targets": []}),
    ("PUT", "/reply-targets", {"reply_targets": []}),
    ("DELETE", "/reply-targets", None),
    ("POST", "/approvals", {"resolutions": [{"request_id": "a", "behavior": "allow"}]}),
    ("POST", "/approval-runs", {"resolutions": [{"request_id": "a", "behavior": "allow"}]}),
    ("POST", "/questions", {"resolution": {"request_id": "a", "declined": True}}),
]


@pytest.mark.parametrize(("method", "path", "body"), UNKNOWN_SESSION)
async def test_an_unknown_session_is_not_found(house: House, method: str, path: str, body: object) -> None:
    response = await house.client.request(method, f"/v1/sessions/nobody{path}", json=body)

    assert response.status_code == 404
    assert (response.json()["domain"], response.json()["code"]) == ("sessions", "session_not_found")
    assert response.headers["content-type"] == "application/problem+json"


def ids(*runs: dict[str, str]) -> list[str]:
    return [run["run_id"] for run in runs]


async def test_watchers_of_a_session_get_the_snapshot_that_reading_it_gives(house: House) -> None:
    await house.session()
    opened = await house.seen("session_snapshot")
    run = await house.submit("count once")
    await house.settled()
    waits = await house.seen("session_snapshot", lambda event: event["snapshot"]["pending_approvals"] != [])
    read_waiting = (await house.get("/v1/sessions/s")).json()["snapshot"]
    resolution = {"request_id": request_id_of(waits), "behavior": "allow"}
    await house.post(f"/v1/runs/{run['run_id']}/approvals", {"resolutions": [resolution]})
    await house.settled()
    over = await house.seen("session_snapshot", lambda event: event["snapshot"]["agent"]["status"] == "completed")

    assert opened["snapshot"]["agent"]["status"] == "idle"
    assert waits == {"type": "session_snapshot", "session_id": "s", "snapshot": read_waiting}
    assert over["snapshot"] == (await house.get("/v1/sessions/s")).json()["snapshot"]
    assert over["snapshot"]["last_assistant_message"].startswith("The tool said")


def request_id_of(event: Mapping[str, Any]) -> str:
    request_id: str = event["snapshot"]["pending_approvals"][0]["id"]
    return request_id


async def test_a_view_from_memory_shows_what_the_rows_say(free: House) -> None:
    await free.session()
    remembered = free.daemon.board._sessions._shown
    texts = ("hi", "emit", "break", "hi again", "question", *("more",) * 101)
    for number, text in enumerate(texts):
        session = "s" if text != "question" else await free.session("asking")
        await free.submit(text, session)
        await free.settled(session)
        if number in (2, 3):
            policy = {"route_policy": {"provider": "two" if number == 2 else "one"}}
            assert (await free.client.put("/v1/sessions/s/route-policy", json=policy)).status_code == 200
        known = (await free.get(f"/v1/sessions/{session}")).json()
        again = (await free.get(f"/v1/sessions/{session}")).json()
        remembered.forget(session)
        assert known == again == (await free.get(f"/v1/sessions/{session}")).json()

    assert remembered.find("s") is not None
    assert len(known["outputs"]) == 100
    assert [output["content"] for output in known["outputs"]] == ["You said: more"] * 100


async def test_a_view_that_a_commit_overtakes_is_not_remembered(free: House) -> None:
    await free.session()
    await free.submit("hi")
    await free.settled()
    remembered = free.daemon.board._sessions._shown
    remembered.forget("s")
    with remembered.reading("s") as keep:
        row = await free.daemon.board._database.read(lambda reader: store.get(reader, "s"))
        assert row is not None
        await free.submit("hi again")
        await free.settled()
        keep(row, [])

    assert remembered.find("s") is None
    assert len((await free.get("/v1/sessions/s")).json()["outputs"]) == 2


async def test_a_view_that_had_seen_a_commit_before_it_was_told_shows_its_output_once(free: House) -> None:
    await free.session()
    remembered = free.daemon.board._sessions._shown
    told: list[Transition] = []
    remembered_committed, remembered.committed = remembered.committed, told.append
    await free.submit("hi")
    await free.settled()
    remembered.forget("s")
    seen = (await free.get("/v1/sessions/s")).json()
    for transition in told:
        remembered_committed(transition)

    assert [output["content"] for output in seen["outputs"]] == ["You said: hi"]
    assert (await free.get("/v1/sessions/s")).json() == seen
    assert remembered.find("s") is not None
