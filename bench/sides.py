"""The daemon and the floor side by side, on fresh state, before the same model server."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.load import Client
from bench.processes import TOKEN, Child, child, serve
from bench.seeding import Place

HERE = Path(__file__).parent
TURNS = 10
"""Runs of one session before the load goes on with a fresh one: what a long conversation costs is another row."""
_DEADLINE_S = 180.0
_ROUTES = """
[routes.bench]
driver = "openai_compatible"
default_model = "m"
base_url = "{url}/v1"
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """What a run does."""

    key: str
    label: str
    content: str
    calls: int
    """Model calls of one run."""


NO_TOOL = Kind(key="no_tool", label="no tool", content="hi", calls=1)
ONE_TOOL = Kind(key="one_tool", label="one tool", content="use a tool", calls=2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One of the servers."""

    name: Literal["daemon", "floor", "library"]
    child: Child

    def client(self) -> Client:
        return Client(self.child.url, TOKEN)

    async def create(self, client: Client, session_id: str) -> None:
        """Open a session; a floor has none to open."""
        if self.name == "daemon":
            await client.post("/v1/sessions", {"session_id": session_id})


@dataclass(frozen=True, kw_only=True, slots=True)
class Sides:
    daemon: Side
    floor: Side
    library: Side
    """The floor over the HTTP library as it comes."""
    model: Child
    place: Place
    """The floor keeps its rows in `floor.db` of its root."""

    def in_turn(self, number: int) -> tuple[Side, Side]:
        """Who goes first alternates with the round."""
        return (self.floor, self.daemon) if number % 2 == 0 else (self.daemon, self.floor)

    def all_in_turn(self, number: int) -> tuple[Side, ...]:
        """With the library's floor: who goes first rotates with the round."""
        every = (self.floor, self.daemon, self.library)
        first = number % len(every)
        return (*every[first:], *every[:first])


@dataclass(frozen=True, kw_only=True, slots=True)
class Driven:
    """What one load found."""

    per_s: float
    seconds: tuple[float, ...]
    """Of each run, from the request to its answer."""
    cpu_s: float | None
    """Of the server's process, for each run."""


@contextmanager
def sides() -> Iterator[Sides]:
    """Start the model server, the floor and the daemon as it is shipped; stop them on exit."""
    with ExitStack() as stack:
        place = Place(root=Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kheish-bench-"))))
        model = stack.enter_context(child([sys.executable, str(HERE / "model_server.py")], place.root / "model.log"))
        place.prepare(_ROUTES.format(url=model.url))
        bare = [
            stack.enter_context(child(_floor(place, model.url, name), place.root / f"{name}.log"))
            for name in ("floor", "library")
        ]
        command = serve(state=place.state, workspace=place.workspace, routes=place.routes)
        daemon = stack.enter_context(child(command, place.root / "daemon.log"))
        yield Sides(
            daemon=Side(name="daemon", child=daemon),
            floor=Side(name="floor", child=bare[0]),
            library=Side(name="library", child=bare[1]),
            model=model,
            place=place,
        )


def _floor(place: Place, model_url: str, name: str) -> list[str]:
    """The command of a floor; ``name`` says which."""
    state = str(place.root / f"{name}.db")
    return [sys.executable, str(HERE / "floor.py"), state, str(place.workspace), model_url, name]


async def drive(side: Side, kind: Kind, tag: str, *, sessions: int, runs: int) -> Driven:
    """Every session submits and waits, ``runs`` times one after the other, all sessions at the same time."""
    seconds: list[float] = []

    async def converse(client: Client, names: list[str]) -> None:
        for number in range(runs):
            began = time.perf_counter()
            await client.post(f"/v1/sessions/{names[number // TURNS]}/input", {"content": kind.content})
            seconds.append(time.perf_counter() - began)

    async with AsyncExitStack() as stack, asyncio.timeout(_DEADLINE_S):
        loads: list[tuple[Client, list[str]]] = []
        for slot in range(sessions):
            client = await stack.enter_async_context(side.client())
            names = [f"{kind.key}-{tag}-{slot}-{part}" for part in range(-(-runs // TURNS))]
            for name in names:
                await side.create(client, name)
            loads.append((client, names))
        began, cpu = time.perf_counter(), side.child.cpu_s()
        await asyncio.gather(*(converse(*load) for load in loads))
        took, cpu_after = time.perf_counter() - began, side.child.cpu_s()
    spent = None if cpu is None or cpu_after is None else (cpu_after - cpu) / len(seconds)
    return Driven(per_s=len(seconds) / took, seconds=tuple(seconds), cpu_s=spent)
