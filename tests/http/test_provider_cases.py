"""Acceptance cases of the providers contract over a whole daemon, with model servers on real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from tests.fakes.model_server import Answer, Call, ModelServer, Raw, Refusal, Request, Response, Stream
from tests.fakes.watching import Each
from tests.http.house import House, opened

pytestmark = pytest.mark.anyio

Respond = Callable[[Request], Response]
ROUTES = {
    "chat": 'driver = "openai_compatible"\ndefault_model = "m"\nbase_url = "{url}"',
    "openai": 'driver = "openai"\ndefault_model = "gpt-5.4"\nbase_url = "{url}"\napi_key = "sk-test"',
    "anthropic": 'driver = "anthropic"\ndefault_model = "claude-sonnet-4-5"\nbase_url = "{url}"\napi_key = "sk-test"',
    "google": 'driver = "google"\ndefault_model = "gemini-3-flash"\nbase_url = "{url}"\napi_key = "sk-test"',
    "xai": 'driver = "xai"\ndefault_model = "grok-4"\nbase_url = "{url}"\napi_key = "sk-test"',
}


@asynccontextmanager
async def served(
    root: Path, answer: Response | Respond, *, wire: str = "chat", more: str = "", **options: Any
) -> AsyncIterator[tuple[House, ModelServer]]:
    """A daemon with one route, `main`, to a model server."""
    with ModelServer(answer) as server:
        routes = f"[routes.main]\n{ROUTES[wire].format(url=server.url)}\n{more}"
        async with opened(root, routes=routes, permission_mode="bypassPermissions", **options) as house:
            yield house, server


async def ended(house: House, text: str = "go", session: str = "s", **fields: Any) -> Any:
    run = await house.submit(text, session, **fields)
    await house.settled(session)
    return await house.run(run["run_id"])


def content(view: Any) -> str:
    assert view["status"] == "completed", view
    return str(view["outputs"][-1]["content"])


async def test_the_route_is_the_inputs_then_the_sessions_then_the_daemons(tmp_path: Path) -> None:
    """Case 5."""
    async with AsyncExitStack() as stack:
        servers = {name: stack.enter_context(ModelServer(Answer(text=f"from {name}"))) for name in "ABC"}
        routes = 'default_route = "A"\n' + "".join(
            f"[routes.{name}]\n{ROUTES['chat'].format(url=server.url)}\n" for name, server in servers.items()
        )
        house = await stack.enter_async_context(opened(tmp_path, routes=routes))
        await house.session()
        policy = "/v1/sessions/s/route-policy"
        assert (await house.post(policy, {"route_policy": {"provider": "B"}})).status_code == 200

        assert content(await ended(house, provider="C")) == "from C"
        assert content(await ended(house)) == "from B"
        assert (await house.client.delete(policy)).status_code == 200
        assert content(await ended(house)) == "from A"


async def test_a_model_selector_names_route_and_model_and_a_queued_run_keeps_its_own(tmp_path: Path) -> None:
    """Cases 6 and 7: the default changes while a run is queued behind one that the model holds."""
    hold = Event()

    def answer(request: Request) -> Response:
        return Stream(answer=Answer(text="from A"), hold_after=0, hold=hold)

    async with AsyncExitStack() as stack:
        a, b = stack.enter_context(ModelServer(answer)), stack.enter_context(ModelServer(Answer(text="from B")))
        chat = ROUTES["chat"] + '\nmodel_support = "any"\n'
        routes = f'default_route = "A"\n[routes.A]\n{chat.format(url=a.url)}[routes.B]\n{chat.format(url=b.url)}'
        house = await stack.enter_async_context(opened(tmp_path, routes=routes))
        stack.callback(hold.set)
        await house.session()
        first = await house.submit("one")
        queued = await house.submit("two")
        await asyncio.to_thread(a.wait_for_requests, 1, 30)
        response = await house.post("/v1/runtime/model", {"provider": "B", "model": "x/y"})
        assert response.status_code == 200
        assert (response.json()["route_id"], response.json()["model"]) == ("B", "x/y")
        hold.set()
        await house.settled()

        assert content(await house.run(first["run_id"])) == content(await house.run(queued["run_id"])) == "from A"
        assert content(await ended(house)) == "from B"
        assert [request.body["model"] for request in b.requests] == ["x/y"]


async def test_an_overloaded_provider_is_asked_twice_and_its_words_stay_out(tmp_path: Path) -> None:
    """Case 8."""

    def answer(request: Request) -> Response:
        if request.number == 1:
            return Answer(text="ok")
        wait = "1" if request.number == 0 else "0"
        body = {"error": {"message": "words of the provider"}}
        return Refusal(status=529, headers={"Retry-After": wait}, body=body)

    async with served(tmp_path, answer, wire="anthropic") as (house, server):
        await house.session()
        view = await ended(house)
        assert (content(view), len(server.requests)) == ("ok", 2)
        assert view["finished_at_ms"] - view["started_at_ms"] >= 1000

        view = await ended(house)
        assert (view["status"], len(server.requests)) == ("failed", 4)
        assert "529" in view["error"]
        assert "words" not in json.dumps(view)


async def test_silence_is_given_up_and_tried_again_and_keep_alives_are_no_silence(tmp_path: Path) -> None:
    """Case 9, with the route's own inactivity limit."""

    def answer(request: Request) -> Response:
        if request.number == 0:
            return Raw(then="silence")
        return Stream(answer=Answer(text="patient"), keep_alives=8, keep_alive_seconds=0.25)

    more = "inactivity_timeout_ms = 1500\nretry = { backoff_ms = 1 }"
    async with served(tmp_path, answer, more=more) as (house, server):
        await house.session()
        assert (content(await ended(house)), len(server.requests)) == ("patient", 2)


@pytest.mark.parametrize("wire", ROUTES)
async def test_a_character_split_over_two_chunks_is_whole(tmp_path: Path, wire: str) -> None:
    """Case 10."""
    from tests.fakes.model_server import _FRAMES

    def answer(request: Request) -> Response:
        data = b"".join(_FRAMES[request.wire](Answer(text="grüße 🌍", pieces=1), "m"))
        middle = data.index("🌍".encode()) + 2
        return Raw(chunks=[data[:middle], data[middle:]])

    async with served(tmp_path, answer, wire=wire) as (house, _):
        await house.session()
        assert content(await ended(house)) == "grüße 🌍"


async def test_thinking_with_a_forced_tool_fails_without_a_request(tmp_path: Path) -> None:
    """Case 11."""
    async with served(tmp_path, Answer(text="never"), wire="anthropic") as (house, server):
        await house.session()
        generation = {"reasoning": {"budget_tokens": 2048}, "tool_choice": {"type": "required"}}
        view = await ended(house, generation=generation)

        assert (view["status"], server.requests) == ("failed", [])
        assert "forced tool choice" in view["error"]


@pytest.mark.parametrize("wire", ["anthropic", "openai", "google"])
async def test_what_the_model_thought_goes_back_before_its_call_and_is_shown_to_nobody(
    tmp_path: Path, wire: str
) -> None:
    """Case 12."""

    def answer(request: Request) -> Response:
        if request.number:
            return Answer(text="done")
        return Answer(thinking="a private plan", calls=[Call(name="list_files", id="toolu_1")])

    more = "store = false" if wire == "openai" else ""
    async with served(tmp_path, answer, wire=wire, more=more) as (house, server):
        await house.session()
        view = await ended(house)
        assert content(view) == "done"
        sent = json.dumps(server.requests[1].body)
        assert sent.index("a private plan") < sent.index("list_files")
        run = f"/v1/runs/{view['run_id']}"
        for path in ("/v1/sessions/s", "/v1/sessions/s/messages", run, f"{run}/events", "/v1/sessions/s/outputs"):
            assert "private plan" not in (await house.get(path)).text
        feed = house.daemon.board._feed
        async with feed.subscribe(cursor=0) as events:
            async for event in Each(events):
                assert b"private plan" not in bytes(event.data)
                if b'"completed"' in bytes(event.data):
                    break


async def test_the_second_turn_carries_the_first_ones_id_and_only_what_is_new(tmp_path: Path) -> None:
    """Case 13; the id outlives a restart."""

    def answer(request: Request) -> Response:
        made = Answer(text=f"answer {request.number}", response_id=f"resp-{request.number}")
        calls = [Call(name="list_files", id="fc-own-1"), Call(name="list_files", id="fc-own-2")]
        return Answer(calls=calls, response_id="resp-0") if request.number == 0 else made

    async with served(tmp_path, answer, wire="openai") as (house, server):
        await house.session()
        await ended(house, "first words")
        await ended(house, "second words")
        first, second, third = (request.body for request in server.requests)

    assert "previous_response_id" not in first
    assert first["store"] is second["store"] is True
    assert second["previous_response_id"] == "resp-0"
    assert [(item["type"], item["call_id"]) for item in second["input"]] == [
        ("function_call_output", "fc-own-1"),
        ("function_call_output", "fc-own-2"),
    ]
    assert third["previous_response_id"] == "resp-1"
    assert third["input"] == [{"role": "user", "content": [{"type": "input_text", "text": "second words"}]}]

    async with served(tmp_path, Answer(text="x"), wire="openai") as (house, server):
        await ended(house, "third words")
        assert server.requests[0].body["previous_response_id"] == "resp-2"
        assert len(server.requests[0].body["input"]) == 1


async def test_an_id_the_provider_no_longer_knows_costs_one_request_and_no_attempt(tmp_path: Path) -> None:
    lost = {"error": {"code": "previous_response_not_found", "type": "invalid_request_error", "message": "resp-0?"}}

    def answer(request: Request) -> Response:
        if "previous_response_id" in request.body:
            return Refusal(status=400, body=lost)
        return Answer(text=f"saw {len(request.body['input'])}", response_id="resp-0")

    async with served(tmp_path, answer, wire="openai", more="retry = { attempts = 1 }") as (house, server):
        await house.session()
        await ended(house)
        assert content(await ended(house)) == "saw 3"
        assert len(server.requests) == 3


async def test_another_bad_request_is_not_repeated(tmp_path: Path) -> None:
    async with served(
        tmp_path,
        lambda request: Refusal(status=400) if request.number else Answer(text="x", response_id="resp-0"),
        wire="openai",
    ) as (house, server):
        await house.session()
        await ended(house)
        assert (await ended(house))["status"] == "failed"
        assert len(server.requests) == 2


@pytest.mark.parametrize(("used", "lowered"), [(200_000, [3000]), (200_001, [])])
async def test_an_output_ceiling_that_leaves_no_room_is_lowered_when_what_is_left_is_worth_it(
    tmp_path: Path, used: int, lowered: list[int]
) -> None:
    """Case 14."""
    words = f"input length and `max_tokens` exceed context limit: {used} + 8000 > 204000, decrease it"

    def answer(request: Request) -> Response:
        if request.number == 0:
            return Refusal(status=400, body={"error": {"type": "invalid_request_error", "message": words}})
        return Answer(text="fits")

    async with served(tmp_path, answer, wire="anthropic") as (house, server):
        await house.session()
        await ended(house)

        asked = [request.body["max_tokens"] for request in server.requests]
        assert [ceiling for ceiling in asked if ceiling != 8000] == lowered
        assert asked[0] == 8000


async def test_a_run_whose_route_is_gone_after_a_restart_fails_and_names_it(tmp_path: Path) -> None:
    """Case 15: while it waits for an approval."""

    def answer(request: Request) -> Response:
        return Answer(calls=[Call(name="bash", arguments={"command": "true"})])

    async with AsyncExitStack() as stack:
        a, b = stack.enter_context(ModelServer(Answer(text="A"))), stack.enter_context(ModelServer(answer))
        one = f'default_route = "A"\n[routes.A]\n{ROUTES["chat"].format(url=a.url)}\n'
        both = f"{one}[routes.B]\n{ROUTES['chat'].format(url=b.url)}\n"
        async with opened(tmp_path, routes=both) as house:
            await house.session()
            run = await house.submit("go", provider="B")
            await house.settled()
            waiting = await house.run(run["run_id"])
            assert waiting["status"] == "waiting_for_approval"
        async with opened(tmp_path, routes=one) as house:
            request = waiting["pending_approvals"][0]["id"]
            resolved = {"resolutions": [{"request_id": request, "behavior": "allow"}]}
            response = await house.post(f"/v1/runs/{run['run_id']}/approvals", resolved)
            assert response.status_code < 300, response.text
            await house.settled()
            view = await house.run(run["run_id"])

        assert view["status"] == "failed"
        assert "'B'" in view["error"]
        assert a.requests == []


@pytest.mark.parametrize("wire", ROUTES)
async def test_an_answer_of_another_form_fails_the_run_on_every_wire(tmp_path: Path, wire: str) -> None:
    """Rule 17."""
    schema = {"kind": "object", "fields": {"n": {"kind": "number"}}}
    generation = {"response_format": {"type": "structured_json", "schema": schema}}
    texts = ('{"n": 7}', '{"n": "seven"}')
    async with served(tmp_path, lambda request: Answer(text=texts[request.number]), wire=wire) as (house, _):
        await house.session()
        assert content(await ended(house, generation=generation)) == '{"n": 7}'
        view = await ended(house, generation=generation)

        assert view["status"] == "failed"
        assert view["error"].endswith("the field 'n' is not a number")


async def test_a_price_in_the_routes_file_makes_the_cost_and_status_says_where_it_comes_from(tmp_path: Path) -> None:
    more = 'prices."*" = { input = 10, output = 100 }'
    async with served(tmp_path, Answer(text="x", input_tokens=100, output_tokens=10), more=more) as (house, _):
        await house.session()
        assert (await ended(house))["usage"]["cost_usd"] == pytest.approx(0.002)
        row = (await house.get("/v1/status")).json()["provider_readiness"]["routes"][0]
        assert row["price_source"] == "route"
    async with served(tmp_path, Answer(text="x")) as (house, _):
        assert (await ended(house))["usage"]["cost_usd"] == 0
        row = (await house.get("/v1/status")).json()["provider_readiness"]["routes"][0]
        assert row["price_source"] == "unknown"
