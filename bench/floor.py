"""The floor: a bare loop with the daemon's commits, model calls and HTTP edge, and no features at all.

It makes exactly the commits of a run (two without, four with one tool), calls the same model server with the same
HTTP client, and answers the same submit-and-wait request. What the daemon costs beyond this is the price of its
features.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import httpx2
import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kheish.store.database import SqliteDatabase, Transaction

_TABLE = "CREATE TABLE rows (id INTEGER PRIMARY KEY, session_id TEXT NOT NULL, body TEXT NOT NULL)"
_INSERT = "INSERT INTO rows (session_id, body) VALUES (?, ?)"


class Floor:
    """One bare agent loop per request."""

    def __init__(self, *, state: Path, model_url: str, workspace: Path) -> None:
        self._database = SqliteDatabase(state)
        self._database.run_offline(lambda connection: connection.execute(_TABLE))
        self._client = httpx2.AsyncClient(timeout=60, limits=httpx2.Limits(max_connections=None))
        self._url = f"{model_url}/v1/chat/completions"
        self._workspace = workspace

    async def run(self, request: Request) -> Response:
        """Submit and wait: accepted, model, (tool, model,) done."""
        session_id = request.path_params["session_id"]
        content = orjson.loads(await request.body())["content"]
        messages: list[dict[str, object]] = [{"role": "user", "content": content}]
        await self._record(session_id, {"accepted": content})
        reply = await self._call(messages)
        while calls := reply["calls"]:
            await self._record(session_id, {"reply": reply, "intent": calls})
            output = (self._workspace / "note.txt").read_text()
            messages += [{"role": "assistant", "tool_calls": calls}, {"role": "tool", "content": output}]
            await self._record(session_id, {"result": output})
            reply = await self._call(messages)
        await self._record(session_id, {"reply": reply, "done": True})
        return Response(orjson.dumps({"status": "completed", "output": reply["text"]}), media_type="application/json")

    async def _record(self, session_id: str, body: object) -> None:
        text = orjson.dumps(body).decode()

        def unit(transaction: Transaction) -> None:
            transaction.connection.execute(_INSERT, (session_id, text))

        await self._database.write(unit)

    async def _call(self, messages: list[dict[str, object]]) -> dict[str, object]:
        text = ""
        calls: list[object] = []
        body = orjson.dumps({"model": "m", "stream": True, "messages": messages})
        async with self._client.stream("POST", self._url, content=body) as response:
            async for line in response.aiter_lines():
                if not line.startswith("data: ") or line.endswith("[DONE]"):
                    continue
                delta = orjson.loads(line[6:])["choices"][0]["delta"]
                text += delta.get("content") or ""
                calls += delta.get("tool_calls") or []
        return {"text": text, "calls": calls}


def main(state: str, workspace: str, model_url: str) -> None:
    floor = Floor(state=Path(state), model_url=model_url, workspace=Path(workspace))
    app = Starlette(routes=[Route("/v1/sessions/{session_id}/input", floor.run, methods=["POST"])])
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"ready http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    config = uvicorn.Config(app, log_level="warning", access_log=False, loop="uvloop", http="httptools")
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main(*sys.argv[1:4])
