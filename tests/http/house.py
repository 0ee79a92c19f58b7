"""A whole daemon in this process, spoken to over HTTP without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2

from kheish.core.clock import Clock
from kheish.core.jsonvalue import decode_object
from kheish.daemon.composition import Daemon, open_daemon
from kheish.daemon.settings import from_options
from kheish.daemon.state_root import OpenDatabase
from kheish.store.database import SqliteDatabase
from tests.fakes.watching import Each

DEADLINE_S = 10.0

SCRIPT = """
[[rules]]
name = "hold until the file go appears"
when = { turn = 0, user = "hold" }
calls = [{ tool = "bash", input = { command = "until [ -e go ]; do read -t 0.02 <> <(:) || :; done; echo released" } }]

[[rules]]
name = "count once"
when = { turn = 0, user = "count once" }
calls = [{ tool = "bash", input = { command = "echo once >> count" } }]

[[rules]]
name = "one allowed call between two that ask"
when = { turn = 0, user = "three calls" }
calls = [
  { tool = "bash", input = { command = "echo first >> count" } },
  { tool = "list_files", input = {} },
  { tool = "bash", input = { command = "echo third >> count" } },
]

[[rules]]
name = "first wave"
when = { turn = 0, user = "two waves" }
calls = [{ tool = "bash", input = { command = "echo one >> count" } }]

[[rules]]
name = "second wave"
when = { turn = 1, user = "two waves" }
calls = [{ tool = "bash", input = { command = "echo two >> count" } }]

[[rules]]
name = "ask a person"
when = { turn = 0, user = "question" }
calls = [{ tool = "ask_user_question", input = { questions = [
  { id = "db", header = "Store", question = "Which database?", options = [
    { id = "pg", label = "PostgreSQL" }, { id = "lite", label = "SQLite" } ] },
  { id = "parts", header = "Parts", question = "Which parts?", multi_select = true, options = [
    { id = "api", label = "API" }, { id = "cli", label = "CLI" } ] },
] } }]

[[rules]]
name = "ask a person who is in a hurry"
when = { turn = 0, user = "quick ask" }
calls = [{ tool = "ask_user_question", input = { expires_after_ms = 60, questions = [
  { id = "db", question = "Which database?", options = [
    { id = "pg", label = "PostgreSQL" }, { id = "lite", label = "SQLite" } ] },
] } }]

[[rules]]
name = "write the required file when told"
when = { turn = 0, user = "write the file" }
calls = [{ tool = "write_file", input = { path = "out/a.md", content = "done" } }]

[[rules]]
name = "say something on the way"
when = { turn = 0, user = "emit" }
calls = [{ tool = "emit_output", input = { content = "half way" } }]

[[rules]]
name = "think forever"
when = { user = "think forever" }
text = "hm"
hang = true

[[rules]]
name = "fail"
when = { user = "break" }
error = { kind = "invalid_request", status = 400, retryable = false }

[[rules]]
name = "tell what came back"
when = { turn = { min = 1, max = 400 }, result = { regex = ".*" } }
text = "The tool said: ${result}"

[fallback]
text = "You said: ${user}"
"""

ROUTES = """
default_route = "one"

[routes.one]
driver = "scripted"
default_model = "model-one"
model_support = "any"
script = "script.toml"

[routes.two]
driver = "scripted"
default_model = "model-two"
script = "script.toml"
"""

Json = Any


class House:
    """One daemon and the client of a test."""

    def __init__(self, daemon: Daemon, client: httpx2.AsyncClient, workspace: Path) -> None:
        self.daemon = daemon
        self.client = client
        self.workspace = workspace

    async def get(self, path: str, **params: object) -> httpx2.Response:
        return await self.client.get(path, params={name: str(value) for name, value in params.items()})

    async def post(self, path: str, body: Json = None, *, key: str | None = None) -> httpx2.Response:
        headers = {} if key is None else {"Idempotency-Key": key}
        if body is None:
            return await self.client.post(path, headers=headers)
        return await self.client.post(path, json=body, headers=headers)

    async def session(self, session_id: str = "s") -> str:
        assert (await self.post("/v1/sessions", {"session_id": session_id})).status_code == 201
        return session_id

    async def submit(self, text: str, session_id: str = "s", **fields: Json) -> Json:
        """Submit a run and return its view."""
        response = await self.post(f"/v1/sessions/{quote(session_id, safe='')}/runs", {"content": text, **fields})
        assert response.status_code == 202, response.text
        return response.json()

    async def settled(self, session_id: str = "s") -> None:
        """Wait until nothing of the session runs."""
        async with asyncio.timeout(DEADLINE_S):
            await self.daemon.engine.quiescent(session_id)

    async def run(self, run_id: str) -> Json:
        return (await self.get(f"/v1/runs/{run_id}")).json()

    async def run_count(self) -> int:
        total: int = (await self.get("/v1/runs", page="true")).json()["pagination"]["total_count"]
        return total

    async def event_types(self, run_id: str) -> list[str]:
        return [entry["event"]["type"] for entry in (await self.get(f"/v1/runs/{run_id}/events")).json()]

    async def seen(self, type: str, holds: Callable[[Mapping[str, Json]], bool] = lambda event: True) -> Json:
        """Wait for the first event of this type that holds, from the beginning of the feed."""
        feed = self.daemon.board._feed
        async with asyncio.timeout(DEADLINE_S), feed.subscribe(cursor=0) as events:
            async for event in Each(events):
                data = decode_object(event.data)
                if event.type == type and holds(data):
                    return data
        raise AssertionError(f"the feed ended without {type}")

    async def tool_started(self, run_id: str) -> None:
        await self.seen(
            "trace", lambda event: event["trace"]["kind"] == "tool_started" and event["trace"]["run_id"] == run_id
        )

    def release(self) -> None:
        """Let the run that holds go on."""
        (self.workspace / "go").touch()

    @property
    def count(self) -> list[str]:
        """What the counting tool has written."""
        path = self.workspace / "count"
        return path.read_text().split() if path.exists() else []


@asynccontextmanager
async def opened(
    root: Path,
    *,
    script: str = SCRIPT,
    routes: str = ROUTES,
    environ: Mapping[str, str] | None = None,
    open_database: OpenDatabase = SqliteDatabase,
    clock: Clock | None = None,
    **options: object,
) -> AsyncIterator[House]:
    """Open the daemon whose state lives under ``root``; opening it again is a restart."""
    workspace = root / "workspace"
    workspace.mkdir(exist_ok=True)
    (root / "routes.toml").write_text(routes)
    (root / "script.toml").write_text(script)
    given = {
        "state_root": str(root / "state"),
        "workspace_root": str(workspace),
        "routes_file": str(root / "routes.toml"),
        **options,
    }
    # A home of its own: the login shells of tools must not run the developer's profile.
    settings = from_options(given, {"HOME": str(root), **(environ or {})})
    async with open_daemon(settings, open_database=open_database, clock=clock) as daemon:
        await daemon.start()
        transport = httpx2.ASGITransport(app=daemon.app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            yield House(daemon, client, workspace)
