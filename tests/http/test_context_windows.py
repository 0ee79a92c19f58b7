"""Conversations that outgrow their model's window (events-and-recovery, cases 14 and 15), over a model server."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.fakes.model_server import Answer, Call, Json, ModelServer, Refusal, Request, Response
from tests.http.house import House, opened

pytestmark = pytest.mark.anyio

WINDOW = 24_000
TURNS = 300
FILE = "".join(f"line {number} of a file that is long enough to be a burden\n" for number in range(120))
PLAN: Json = {"todos": [{"id": "ledger", "content": "finish the ledger"}]}

ROUTES = """
[routes.main]
driver = "openai_compatible"
default_model = "m"
base_url = "{url}"
context_window_tokens = {window}
"""
WIRES = {
    "chat": ('driver = "openai_compatible"\ndefault_model = "m"\nbase_url = "{url}/v1"', "messages"),
    "responses": ('driver = "openai"\ndefault_model = "gpt-5.4"\nbase_url = "{url}"\napi_key = "k"', "input"),
    "messages": ('driver = "anthropic"\ndefault_model = "claude-x"\nbase_url = "{url}/"\napi_key = "k"', "messages"),
}
REFUSALS = {
    "a code": Refusal(status=400, body={"error": {"message": "no", "code": "context_length_exceeded"}}),
    "words": Refusal(status=400, body={"error": {"message": "prompt is too long: 210000 tokens > 200000 maximum"}}),
    "413": Refusal(status=413, body="Payload Too Large"),
}


def paths_read(request: Request) -> list[str]:
    calls = [call["function"] for message in request.body["messages"] for call in message.get("tool_calls") or ()]
    return [json.loads(call["arguments"])["path"] for call in calls if call["name"] == "read_file"]


def reads_file_after_file(request: Request) -> Response:
    """The model: a plan, then one file after the other; it knows no more than the request says."""
    if request.user_text != "read everything":
        known = "finish the ledger" in json.dumps(request.body["messages"])
        return Answer(text=f"the ledger is {'known' if known else 'forgotten'}")
    read = paths_read(request)
    reached = int(read[-1].removesuffix(".txt")) if read else 0
    if reached == 0 and not request.tool_results:
        return Answer(calls=[Call(name="todo_write", arguments=PLAN)])
    if reached == TURNS:
        return Answer(text="read all of it")
    return Answer(text=f"on to {reached + 1}", calls=[Call(name="read_file", arguments={"path": f"{reached + 1}.txt"})])


def tokens(request: Request) -> int:
    return len(json.dumps(request.body, separators=(",", ":"), ensure_ascii=False).encode()) // 4


async def over(house: House, run_id: str) -> Json:
    async with asyncio.timeout(120):
        await house.daemon.engine.stopped("s", run_id)
    return await house.run(run_id)


@pytest.mark.timeout(240)
async def test_300_turns_with_big_outputs_stay_under_the_window_and_nothing_is_forgotten(tmp_path: Path) -> None:
    with ModelServer(reads_file_after_file) as server:
        routes = ROUTES.format(url=server.url, window=WINDOW)
        async with opened(tmp_path, routes=routes, permission_mode="bypassPermissions", max_turns=0) as before:
            for number in range(1, TURNS + 1):
                (before.workspace / f"{number}.txt").write_text(FILE)
            await before.session()
            await before.submit("read everything")
            await asyncio.to_thread(server.wait_for_requests, TURNS // 2, 120)
        async with opened(tmp_path, routes=routes, permission_mode="bypassPermissions", max_turns=0) as after:
            done = await over(after, "run-1")
            asked = await after.submit("what is left?")
            answer = await over(after, asked["run_id"])
            events = (await after.get("/v1/sessions/s/events")).json()
            view = (await after.get("/v1/sessions/s")).json()
            traced = await after.seen("trace", lambda event: event["trace"]["kind"] == "compaction")

    assert (done["status"], done["outputs"][-1]["content"]) == ("completed", "read all of it")
    assert answer["outputs"][-1]["content"] == "the ledger is known"
    assert max(tokens(request) for request in server.requests) < WINDOW
    check_journal(events["session"], view["snapshot"])
    assert traced["trace"]["boundary"]["type"] in ("microcompact", "autocompact")


def check_journal(session: Json, snapshot: Json) -> None:
    entries = [entry["event"] for entry in session["journal"]]
    raw = [event["result"]["output"] for event in entries if event["type"] == "tool_call_finished"]
    assert sum(output.get("content") == FILE for output in raw) == TURNS
    boundaries = [event["boundary"] for event in entries if event["type"] == "compaction_boundary"]
    assert {"microcompact", "autocompact"} <= {boundary["type"] for boundary in boundaries}
    offsets = [entry["offset"] for entry in session["journal"]]
    assert offsets == sorted(set(offsets))

    checkpoints = session["checkpoints"]
    assert len(checkpoints) == sum(boundary["type"] == "autocompact" for boundary in boundaries) > 1
    assert snapshot["checkpoint_len"] == len(checkpoints)
    assert [one["prompt_window_generation"] for one in checkpoints] == list(range(1, len(checkpoints) + 1))
    assert len({one["prompt_window_id"] for one in checkpoints}) == len(checkpoints)
    assert len({one["journal_digest"] for one in checkpoints}) == len(checkpoints)
    last = checkpoints[-1]
    assert last["restoration"]["session_control"]["todos"] == [
        {"id": "ledger", "content": "finish the ledger", "completed": False}
    ]
    assert last["compacted_until_offset"] < last["prompt_window_started_after_offset"]
    assert last["compact_metadata"]["pre_tokens"] > last["compact_metadata"]["post_tokens"]
    assert "finish the ledger" in last["prompt_summary"]["content"]
    assert last["canonical"]["open_tool_calls"] == {}
    assert last["canonical"]["messages"][-1]["id"] == last["compact_metadata"]["preserved_segment"]["tail_uuid"]


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
@pytest.mark.parametrize("wire", WIRES)
async def test_a_provider_that_overflows_twice_still_completes_the_run(
    tmp_path: Path, wire: str, refusal: Refusal
) -> None:
    def respond(request: Request) -> Response:
        if request.number in (2, 3):
            return refusal
        if request.number < 4:
            calls = [Call(name="read_file", arguments={"path": f"{name}.txt"}, id=f"toolu_{name}") for name in "ab"]
            return Answer(text="reading", calls=calls)
        return Answer(text="made it")

    route, field = WIRES[wire]
    with ModelServer(respond) as server:
        routes = "[routes.main]\n" + route.format(url=server.url)
        async with opened(tmp_path, routes=routes, permission_mode="bypassPermissions") as house:
            for name in "ab":
                (house.workspace / f"{name}.txt").write_text(FILE)
            await house.session()
            await house.submit("read both, twice")
            done = await over(house, "run-1")
            session = (await house.get("/v1/sessions/s/events")).json()["session"]

    assert (done["status"], done["outputs"][-1]["content"]) == ("completed", "made it")
    assert [request.wire for request in server.requests] == [wire] * 5
    continued = ["previous_response_id" in request.body for request in server.requests]
    assert continued == [False, wire == "responses", wire == "responses", False, False]  # none crosses a relief
    whole = [len(json.dumps(r.body[field])) for r in server.requests[2:] if "previous_response_id" not in r.body]
    assert whole == sorted(set(whole), reverse=True)
    assert "read both, twice" in json.dumps(server.requests[4].body[field])
    boundaries = [e["event"]["boundary"] for e in session["journal"] if e["event"]["type"] == "compaction_boundary"]
    assert [boundary["type"] for boundary in boundaries if boundary["type"] != "microcompact"] == [
        "snip",
        "autocompact",
    ]
    assert len(session["checkpoints"]) == 1


async def test_a_result_that_is_too_large_is_shown_in_part_and_kept_whole(tmp_path: Path) -> None:
    def respond(request: Request) -> Response:
        if request.tool_results:
            return Answer(text="seen")
        return Answer(calls=[Call(name="read_file", arguments={"path": "big.txt"})])

    with ModelServer(respond) as server:
        routes = ROUTES.format(url=server.url, window=WINDOW)
        async with opened(tmp_path, routes=routes) as house:
            (house.workspace / "big.txt").write_text(FILE * 8)
            await house.session()
            await house.submit("read it")
            done = await over(house, "run-1")
            events = (await house.get("/v1/sessions/s/events")).json()["session"]["journal"]

    assert done["status"] == "completed"
    (shown,) = [json.loads(text) for text in server.requests[1].tool_results.values()]
    kept = next(e["event"]["result"] for e in events if e["event"]["type"] == "tool_call_finished")
    assert kept["output"]["content"] == FILE * 8
    assert sorted(shown) == ["bytes", "estimated_tokens", "preview", "raw_ref", "sha256", "truncated"]
    assert shown["truncated"] is True
    assert shown["raw_ref"] == f"tool_result:{kept['call_id']}"
    assert shown["bytes"] > len(FILE * 8)
    assert "line 0 of a file" in shown["preview"]
    assert len(shown["preview"]) < WINDOW // 8 * 4
    assert tokens(server.requests[1]) < WINDOW


async def test_a_routes_window_is_shown_with_the_route_and_must_be_positive(tmp_path: Path) -> None:
    routes = ROUTES.format(url="http://127.0.0.1:9", window=WINDOW)
    async with opened(tmp_path, routes=routes) as house:
        runtime = (await house.get("/v1/runtime")).json()
    assert runtime["routes"][0]["context_window_tokens"] == WINDOW
