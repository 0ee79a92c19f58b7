"""Daemons and floors side by side, on fresh state, before the same model server."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.load import Client, share
from bench.processes import TOKEN, Child, begun, child, serve
from bench.seeding import Place

HERE = Path(__file__).parent
Name = Literal["daemon", "floor", "library_daemon", "library_floor"]
PAIRS: tuple[tuple[Name, Name], ...] = (("floor", "daemon"), ("library_floor", "library_daemon"))
"""Who stands beside whom, with the same HTTP client for model calls: the daemon's own engine, or the HTTP library."""
BEHIND_A_PROXY = {"HTTP_PROXY": "http://127.0.0.1:1", "NO_PROXY": "127.0.0.1"}
"""A daemon that is told of a proxy calls models through the HTTP library; the model server here is called directly."""
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

    name: Name
    child: Child

    def client(self) -> Client:
        return Client(self.child.url, TOKEN)

    async def create(self, client: Client, session_id: str) -> None:
        """Open a session; a floor has none to open."""
        if self.name in ("daemon", "library_daemon"):
            await client.post("/v1/sessions", {"session_id": session_id})


@dataclass(frozen=True, kw_only=True, slots=True)
class Sides:
    """Those that were asked for."""

    started: Mapping[Name, Side]
    model: Child
    place: Place
    """Of the daemon; the floor keeps its rows in `floor.db` of its root."""

    @property
    def daemon(self) -> Side:
        """As it is shipped."""
        return self.started["daemon"]

    def in_turn(self, number: int, *, pairs: int = len(PAIRS)) -> tuple[Side, ...]:
        """The sides of the first ``pairs``, the two of a pair next to each other.

        Who of them goes first alternates with the round, which pair does with every second one.
        """
        chosen = PAIRS[:pairs] if number // 2 % 2 == 0 else PAIRS[:pairs][::-1]
        return tuple(self.started[name] for pair in chosen for name in (pair if number % 2 == 0 else pair[::-1]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Driven:
    """What one load found."""

    per_s: float
    seconds: tuple[float, ...]
    """Of each run, from the request to its answer."""
    cpu_s: float | None
    """Of the server's process, for each run."""


@contextmanager
def sides(*names: Name) -> Iterator[Sides]:
    """Start the model server and these sides, all at the same time; they and what they wrote are gone on exit."""
    with ExitStack() as stack:
        place = Place(root=Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kheish-bench-"))))
        model = stack.enter_context(child([sys.executable, str(HERE / "model_server.py")], place.root / "model.log"))
        place.prepare(_ROUTES.format(url=model.url))
        listening = {
            name: stack.enter_context(
                begun(
                    _command(name, place, model.url),
                    place.root / f"{name}.log",
                    more=BEHIND_A_PROXY if name == "library_daemon" else None,
                    kept=False,
                )
            )
            for name in names
        }
        started = {name: Side(name=name, child=wait()) for name, wait in listening.items()}
        yield Sides(started=started, model=model, place=place)


def _command(name: Name, place: Place, model_url: str) -> list[str]:
    if name in ("floor", "library_floor"):
        state, engine = str(place.root / f"{name}.db"), "library" if name == "library_floor" else "ours"
        return [sys.executable, str(HERE / "floor.py"), state, str(place.workspace), model_url, engine]
    state_root = place.state if name == "daemon" else place.root / "library-state"
    return serve(state=state_root, workspace=place.workspace, routes=place.routes)


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
            loads.append((client, names))
        await share([client for client, _ in loads], [name for _, names in loads for name in names], side.create)
        began, cpu = time.perf_counter(), side.child.cpu_s()
        await asyncio.gather(*(converse(*load) for load in loads))
        took, cpu_after = time.perf_counter() - began, side.child.cpu_s()
    spent = None if cpu is None or cpu_after is None else (cpu_after - cpu) / len(seconds)
    return Driven(per_s=len(seconds) / took, seconds=tuple(seconds), cpu_s=spent)
