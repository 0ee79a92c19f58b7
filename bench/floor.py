"""The floor: a bare loop with the daemon's commits, model calls and HTTP edge, and no features at all.

It makes exactly the commits of a run (two without, four with one tool), makes the same calls to the same model server
(the daemon's instructions and tools, and the whole conversation of the session), and answers the same submit-and-wait
request. What the daemon costs beyond this is the price of its features.

It calls the model through the daemon's own HTTP engine or, with `library` as its last argument, through the HTTP
library as that comes, as a loop that anybody writes would.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import cast

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kheish.core.messages import Generation
from kheish.daemon.one_write import OneWriteProtocol
from kheish.engine.prompt import system_prompt
from kheish.providers.chat_completions import build_body
from kheish.providers.drivers import Driver
from kheish.providers.protocol import ModelRequest
from kheish.providers.transport import new_model_client
from kheish.store.database import SqliteDatabase, Transaction
from kheish.tools.builtin import builtin_tools
from kheish.tools.registry import ToolRegistry
from kheish.tools.runtime import ToolRuntime

Message = dict[str, object]
_TABLE = "CREATE TABLE rows (id INTEGER PRIMARY KEY, session_id TEXT NOT NULL, body TEXT NOT NULL)"
_COLLECTIONS = (5_000, 20, 20)
"""When the garbage collector looks: as in a daemon that is ready."""
_INSERT = "INSERT INTO rows (session_id, body) VALUES (?, ?)"
Call = Callable[[bytes], Awaitable[bytes]]
"""A bare model call: from the body of a request to the whole answer."""


class Floor:
    """One bare agent loop per request."""

    call: Call
    """Set while the server runs."""

    def __init__(self, *, state: Path, workspace: Path) -> None:
        self._database = SqliteDatabase(state)
        self._database.run_offline(lambda connection: connection.execute(_TABLE))
        self._request = standing_request(workspace)
        self._workspace = workspace
        self._conversations: dict[str, list[Message]] = {}
        self._submitted: set[asyncio.Task[str]] = set()

    async def wait(self, request: Request) -> Response:
        """Submit and wait."""
        output = await self._finish(request.path_params["session_id"], await self._accept(request))
        return Response(orjson.dumps({"status": "completed", "output": output}), media_type="application/json")

    async def submit(self, request: Request) -> Response:
        """Answer as soon as the input is durable; the run goes on."""
        messages = await self._accept(request)
        task = asyncio.create_task(self._finish(request.path_params["session_id"], messages))
        self._submitted.add(task)
        task.add_done_callback(self._submitted.discard)
        return Response(b'{"status":"queued"}', status_code=202, media_type="application/json")

    async def _accept(self, request: Request) -> list[Message]:
        session_id = request.path_params["session_id"]
        content = orjson.loads(await request.body())["content"]
        await self._record(session_id, {"accepted": content})
        messages = self._conversations.setdefault(session_id, [])
        messages.append({"role": "user", "content": content})
        return messages

    async def _finish(self, session_id: str, messages: list[Message]) -> str:
        """Model, (tool, model,) done."""
        text, calls = await self._call(messages)
        while calls:
            await self._record(session_id, {"reply": text, "intent": calls})
            output = (self._workspace / "note.txt").read_text()
            await self._record(session_id, {"result": output})
            messages.append({"role": "assistant", "content": text, "tool_calls": calls})
            messages += [{"role": "tool", "tool_call_id": call["id"], "content": output} for call in calls]
            text, calls = await self._call(messages)
        await self._record(session_id, {"reply": text, "done": True})
        messages.append({"role": "assistant", "content": text})
        return text

    async def _record(self, session_id: str, body: object) -> None:
        text = orjson.dumps(body).decode()

        def unit(transaction: Transaction) -> None:
            transaction.connection.execute(_INSERT, (session_id, text))

        await self._database.write(unit)

    async def _call(self, messages: list[Message]) -> tuple[str, list[Message]]:
        text = ""
        calls: list[Message] = []
        body = orjson.dumps({**self._request, "messages": [*self._request["messages"], *messages]})
        for line in (await self.call(body)).splitlines():
            if not line.startswith(b"data: ") or line.endswith(b"[DONE]"):
                continue
            delta = orjson.loads(line[6:])["choices"][0]["delta"]
            text += delta.get("content") or ""
            calls += delta.get("tool_calls") or []
        return text, calls


@asynccontextmanager
async def calling(model_url: str, engine: str) -> AsyncIterator[Call]:
    """Model calls with the daemon's HTTP engine or, for `library`, with the HTTP library as it comes."""
    url = f"{model_url}/v1/chat/completions"
    headers = {"Content-Type": "application/json", "Accept": "text/event-stream", "Accept-Encoding": "identity"}
    if engine == "library":
        import httpx2

        async with httpx2.AsyncClient(timeout=None) as client:

            async def posted(body: bytes) -> bytes:
                return (await client.post(url, content=body, headers=headers)).raise_for_status().content

            yield posted
        return
    async with aclosing(new_model_client()) as models:
        target = models.target(url, headers)

        async def sent(body: bytes) -> bytes:
            answer = b""
            exchange = await target.send(body)
            try:
                if exchange.status != HTTPStatus.OK:
                    raise RuntimeError(f"the model server answered {exchange.status}")
                while piece := await exchange.read():
                    answer += piece
            finally:
                await exchange.aclose()
            return answer

        yield sent


def standing_request(workspace: Path) -> dict[str, list[Message]]:
    """What is the same in every request of the daemon, as its adapter writes it."""
    tools = ToolRuntime(ToolRegistry(builtin_tools({}))).specs()
    generation = Generation()
    asked = ModelRequest(model="m", system=system_prompt(workspace), messages=(), tools=tools, generation=generation)
    return cast("dict[str, list[Message]]", build_body(asked, Driver.OPENAI_COMPATIBLE))


def main(state: str, workspace: str, model_url: str, engine: str = "ours") -> None:
    floor = Floor(state=Path(state), workspace=Path(workspace))

    @asynccontextmanager
    async def living(_: Starlette) -> AsyncIterator[None]:
        async with calling(model_url, engine) as floor.call:
            yield

    routes = [
        Route("/v1/sessions/{session_id}/input", floor.wait, methods=["POST"]),
        Route("/v1/sessions/{session_id}/runs", floor.submit, methods=["POST"]),
    ]
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"ready http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    gc.freeze()
    gc.set_threshold(*_COLLECTIONS)
    config = uvicorn.Config(
        Starlette(routes=routes, lifespan=living),
        log_level="warning",
        access_log=False,
        loop="uvloop",
        http=OneWriteProtocol,
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main(*sys.argv[1:5])
