"""The fake model server keeps a pace when asked to, and answers everything else at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import orjson
import pytest

from bench.model_server import TOKEN, ModelProtocol, Pacer, now_us
from tests.http.house import DEADLINE_S

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def model() -> AsyncIterator[httpx2.AsyncClient]:
    pacer = Pacer()
    server = await asyncio.get_running_loop().create_server(lambda: ModelProtocol(pacer), "127.0.0.1", 0)
    async with server, httpx2.AsyncClient(base_url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as client:
        async with asyncio.timeout(DEADLINE_S):
            yield client


def asking(*messages: str) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": message} for message in messages]}


def events(body: str) -> list[str]:
    return [line.removeprefix("data: ") for line in body.splitlines() if line]


async def test_a_paced_answer_is_a_chunked_stream_of_its_tokens_each_with_its_moment() -> None:
    async with model() as client:
        before = now_us()
        response = await client.post("/v1/chat/completions", json=asking("hi", "stream 5 tokens at 1000 per second"))
        after = now_us()

    *deltas, finish, usage, done = events(response.text)
    moments = [int(moment) for moment in TOKEN.findall(response.content)]
    texts = [orjson.loads(delta)["choices"][0]["delta"]["content"] for delta in deltas]
    assert response.headers["transfer-encoding"] == "chunked"
    assert len(moments) == len(deltas) == 5
    assert sorted(moments) == moments
    assert before <= moments[0] <= moments[-1] <= after
    assert all(3 <= len(text.partition("@")[0]) <= 6 for text in texts)
    assert orjson.loads(finish)["choices"][0]["finish_reason"] == "stop"
    assert orjson.loads(usage)["usage"]["completion_tokens"] == 5
    assert done == "[DONE]"


async def test_only_the_last_user_message_asks_for_a_pace_and_others_are_answered_whole() -> None:
    async with model() as client:
        text = await client.post("/v1/chat/completions", json=asking("stream 5 tokens at 1000 per second", "hi"))
        call = await client.post("/v1/chat/completions", json=asking("use a tool"))

    assert "content-length" in text.headers
    assert orjson.loads(events(text.text)[0])["choices"][0]["delta"]["content"] == "done"
    assert "tool_calls" in orjson.loads(events(call.text)[0])["choices"][0]["delta"]


async def test_the_pace_that_was_kept_is_told_and_all_paced_answers_end_when_asked() -> None:
    async with model() as client:
        began = now_us()
        endless = "stream 1000000 tokens at 200 per second"
        async with client.stream("POST", "/v1/chat/completions", json=asking(endless)) as response:
            pieces = response.aiter_text()
            body = await anext(pieces)
            await client.post("/end")
            body += "".join([piece async for piece in pieces])
        kept = (await client.get("/pace", params={"from": began, "until": now_us()})).json()
        none = (await client.get("/pace", params={"from": 0, "until": began})).json()

    assert events(body)[-1] == "[DONE]"
    assert kept["tokens"] == len(TOKEN.findall(body.encode())) > 0
    assert 0 <= kept["p50_late_us"] <= kept["p95_late_us"]
    assert none["tokens"] == 0


async def test_paced_answers_that_pause_are_open_and_silent_until_they_resume() -> None:
    async with model() as client:
        await client.post("/pause")
        asked = asking("stream 3 tokens at 1000 per second")
        async with client.stream("POST", "/v1/chat/completions", json=asked) as response:
            waiting = (await client.get("/pace", params={"from": 0, "until": now_us()})).json()
            await client.post("/resume")
            body = await response.aread()
        ended = (await client.get("/pace", params={"from": 0, "until": now_us()})).json()

    assert (waiting["open"], waiting["tokens"]) == (1, 0)
    assert (ended["open"], ended["tokens"]) == (0, 3)
    assert len(TOKEN.findall(body)) == 3
