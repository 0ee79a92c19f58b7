"""Two servers whose streams can be watched, the daemon and the bare relay, each bound to one core of its own."""

from __future__ import annotations

import asyncio
import gc
import resource
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from bench.cores import Cores, bound, this_process
from bench.load import Client
from bench.processes import TOKEN, Child, child, serve
from bench.watchers import DEADLINE_S, Arrivals, Watcher, Watchers

HERE = Path(__file__).parent
Name = Literal["daemon", "relay"]
_ROUTES = """
[routes.bench]
driver = "openai_compatible"
default_model = "m"
base_url = "{url}/v1"
"""
_AT_ONCE = 16
_DESCRIPTORS = 8192


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where the processes of one measurement live."""

    root: Path
    model: Child
    cores: Cores

    @contextmanager
    def server(self, name: Name) -> Iterator[Child]:
        """A fresh daemon or relay."""
        with tempfile.TemporaryDirectory(dir=self.root) as folder:
            own = Path(folder)
            if name == "daemon":
                command = serve(
                    state=own / "state", workspace=self.root / "workspace", routes=self.root / "routes.toml"
                )
            else:
                command = [sys.executable, str(HERE / "relay.py"), self.model.url]
            with child(bound(command, self.cores.measured), own / "log", kept=False) as started:
                yield started


@contextmanager
def place() -> Iterator[Place]:
    """A model server on the load's core; this process joins it there."""
    cores = Cores.of_this_machine()
    with tempfile.TemporaryDirectory(prefix="kheish-bench-") as folder, many_descriptors(), this_process(cores.load):
        root = Path(folder)
        (root / "workspace").mkdir()
        command = [sys.executable, str(HERE / "model_server.py")]
        with child(bound(command, cores.load), root / "model.log") as model:
            (root / "routes.toml").write_text(_ROUTES.format(url=model.url))
            yield Place(root=root, model=model, cores=cores)


@contextmanager
def many_descriptors() -> Iterator[None]:
    """Every live stream is two connections; the processes started meanwhile may have as many."""
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(wanted, before), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))


class Side(Protocol):
    """A server whose streams are watched."""

    process: Child

    async def start(self, message: str, arrivals: Arrivals) -> Watcher:
        """One more answer of the model, watched from before its first token."""
        ...

    async def start_shared(self, message: str, arrivals: Arrivals, watchers: int) -> list[Watcher]:
        """One answer that so many watch."""
        ...


class DaemonSide:
    """Each stream is a run in a session of its own, watched on the session's stream."""

    def __init__(self, process: Child, watchers: Watchers, clients: list[Client]) -> None:
        self.process = process
        self._watchers = watchers
        self._idle = clients
        self._sessions = 0

    async def start(self, message: str, arrivals: Arrivals) -> Watcher:
        client = self._idle.pop()
        session_id = await self.open_session(client)
        watcher = await self._watchers.watch(self.process.url, f"/v1/sessions/{session_id}/stream", TOKEN, arrivals)
        await client.post(f"/v1/sessions/{session_id}/runs", {"content": message})
        self._idle.append(client)
        return watcher

    async def start_shared(self, message: str, arrivals: Arrivals, watchers: int) -> list[Watcher]:
        client = self._idle.pop()
        session_id = await self.open_session(client)
        path = f"/v1/sessions/{session_id}/stream"
        watching = await self._watchers.watch_often(watchers, self.process.url, path, TOKEN, arrivals)
        await client.post(f"/v1/sessions/{session_id}/runs", {"content": message})
        self._idle.append(client)
        return watching

    async def open_session(self, client: Client) -> str:
        self._sessions += 1
        session_id = f"streamed-{self._sessions}"
        await client.post("/v1/sessions", {"session_id": session_id})
        return session_id


class RelaySide:
    """Each stream is a request."""

    def __init__(self, process: Child, watchers: Watchers) -> None:
        self.process = process
        self._watchers = watchers

    async def start(self, message: str, arrivals: Arrivals) -> Watcher:
        return await self._watchers.watch(self.process.url, f"/{message.replace(' ', '-')}", None, arrivals)

    async def start_shared(self, message: str, arrivals: Arrivals, watchers: int) -> list[Watcher]:
        path = f"/shared/{message.replace(' ', '-')}"
        return await self._watchers.watch_often(watchers, self.process.url, path, None, arrivals)


@asynccontextmanager
async def side(name: Name, process: Child, watchers: Watchers) -> AsyncIterator[Side]:
    async with AsyncExitStack() as stack:
        if name == "relay":
            yield RelaySide(process, watchers)
        else:
            clients = [await stack.enter_async_context(Client(process.url, TOKEN)) for _ in range(_AT_ONCE)]
            yield DaemonSide(process, watchers, clients)


async def start_many(server: Side, count: int, message: str, arrivals: Arrivals) -> list[Watcher]:
    """So many streams at the given pace."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one() -> Watcher:
        async with gate:
            return await server.start(message, arrivals)

    return await asyncio.gather(*(one() for _ in range(count)))


async def all_begun(watchers: list[Watcher]) -> None:
    """Each has its first token."""
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(*(watcher.first for watcher in watchers))


@contextmanager
def no_garbage_pauses() -> Iterator[None]:
    """What a watcher keeps is small and lives long: looking through it again would only make tokens late."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
