"""State roots with a past: real runs of a real daemon, copied through the journal as often as a row needs them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx2

from kheish.daemon.composition import open_daemon
from kheish.daemon.journaling import projections
from kheish.daemon.settings import from_options
from kheish.engine import entries as e
from kheish.engine.codec import VERSION, decode_entry, encode_entry, type_name
from kheish.engine.entries import Recorded
from kheish.engine.journal import DatabaseJournal
from kheish.engine.ports import Transition
from kheish.engine.state import RunState, SessionState, advance, apply
from kheish.external_actions.trail import open_trail
from kheish.sessions import store as sessions_store
from kheish.store.database import SqliteDatabase, Transaction
from kheish.store.feed import Feed
from kheish.store.migrations import migrate
from kheish.tools.builtin import builtin_tools
from kheish.tools.registry import ToolRegistry
from kheish.tools.runtime import ToolRuntime

DEADLINE_S = 120.0
_AT_ONCE = 64

ROUTES = """
[routes.bench]
driver = "scripted"
default_model = "m"
script = "script.toml"
"""
SCRIPT = """
[[rules]]
name = "look, then say so"
when = { turn = 0, user = "use a tool" }
calls = [{ tool = "read_file", input = { path = "note.txt" } }]

[[rules]]
name = "ask before a command"
when = { turn = 0, user = "run a command" }
calls = [{ tool = "bash", input = { command = "true" } }]

[fallback]
text = "The note was read, and this is what there is to say about it."
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a daemon of the bench lives."""

    root: Path

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def workspace(self) -> Path:
        return self.root / "workspace"

    @property
    def routes(self) -> Path:
        return self.root / "routes.toml"

    def prepare(self, routes: str = ROUTES) -> None:
        self.workspace.mkdir(parents=True, exist_ok=True)
        (self.workspace / "note.txt").write_text("a note\n" * 20)
        self.routes.write_text(routes)
        (self.root / "script.toml").write_text(SCRIPT)


@dataclass(frozen=True, kw_only=True, slots=True)
class Template:
    """One run as a real daemon recorded it, to be copied under other ids."""

    entries: tuple[Recorded, ...]

    @property
    def run_id(self) -> str:
        return self.entries[0].run_id or ""

    def first(self, kind: type[e.Entry]) -> Template:
        """The run as far as its first entry of this kind: what a kill right after that commit leaves."""
        end = next(index for index, recorded in enumerate(self.entries) if isinstance(recorded.entry, kind))
        return Template(entries=self.entries[: end + 1])


async def templates(place: Place) -> dict[str, Template]:
    """Run each kind of input once; `look` ends by itself, `ask` waits for an approval."""
    state_root = place.root / "template"
    await live(place, state_root, {"template-look": "use a tool", "template-ask": "run a command"})
    async with _journal(state_root) as (journal, _):
        return {name: Template(entries=tuple(await journal.load(f"template-{name}"))) for name in ("look", "ask")}


async def live(place: Place, state_root: Path, contents: Mapping[str, str]) -> None:
    """Have a real daemon run one input in each of these sessions, until it ends or waits for somebody."""
    options: dict[str, object] = {
        "state_root": str(state_root),
        "workspace_root": str(place.workspace),
        "routes_file": str(place.routes),
    }
    async with open_daemon(from_options(options, {})) as daemon:
        await daemon.start()
        transport = httpx2.ASGITransport(app=daemon.app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            for session_id, content in contents.items():
                (await client.post("/v1/sessions", json={"session_id": session_id})).raise_for_status()
                (await client.post(f"/v1/sessions/{session_id}/runs", json={"content": content})).raise_for_status()
                async with asyncio.timeout(DEADLINE_S):
                    await daemon.engine.quiescent(session_id)


class Seed:
    """Copies templates into the sessions of one state root."""

    def __init__(self, journal: DatabaseJournal, database: SqliteDatabase) -> None:
        self._journal = journal
        self._database = database
        self._runs = 0

    async def session(self, session_id: str, runs: Sequence[Template]) -> int:
        """Create the session and give it these runs, one after the other; returns its number of entries."""

        def create(transaction: Transaction) -> None:
            sessions_store.create(
                transaction.connection,
                session_id=session_id,
                agent_id=f"agent-{session_id}",
                thread_id=None,
                capability_scope=None,
                credential_scope=None,
                at_ms=runs[0].entries[0].at_ms,
            )

        await self._database.write(create)
        state = SessionState(session_id=session_id)
        for template in runs:
            self._runs += 1
            state = await self._append(state, template, f"run-{self._runs}")
        return state.next_offset - 1

    async def sessions(self, named: Sequence[tuple[str, Sequence[Template]]]) -> None:
        """Many sessions, side by side, so that they share commits."""
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(session_id: str, runs: Sequence[Template]) -> None:
            async with gate:
                await self.session(session_id, runs)

        async with asyncio.TaskGroup() as group:
            for session_id, runs in named:
                group.create_task(one(session_id, runs))

    async def _append(self, state: SessionState, template: Template, run_id: str) -> SessionState:
        entries: list[Recorded] = []
        run: RunState | None = None
        for recorded in template.entries:
            copied = _copied(recorded, template.run_id, state.session_id, run_id, state.next_offset)
            known = state.run(run_id)
            state = advance(state, copied)
            run = state.run(run_id) or (None if known is None else apply(known, copied))
            entries.append(copied)
        assert run is not None
        transition = Transition(session_id=state.session_id, entries=tuple(entries), runs=(run,), session=state)
        await self._journal.append(transition)
        return state


@asynccontextmanager
async def seeding(place: Place) -> AsyncIterator[Seed]:
    """Open a state root without a daemon; make it when it is missing."""
    async with _journal(place.state) as (journal, database):
        yield Seed(journal, database)


@asynccontextmanager
async def _journal(state_root: Path) -> AsyncIterator[tuple[DatabaseJournal, SqliteDatabase]]:
    database = SqliteDatabase(_database_of(state_root))
    try:
        database.run_offline(migrate)
        feed = Feed(database)
        database.run_offline(feed.load)
        database.attach(feed)
        trail = database.run_offline(lambda opened: open_trail(opened, state_root, None, now_ms=0))
        tools = ToolRuntime(ToolRegistry(builtin_tools({})))
        kept = projections(feed, sessions_store.SessionsProjection(feed), trail, tools.acts_outside)
        yield DatabaseJournal(database, kept), database
    finally:
        database.close()


def _database_of(state_root: Path) -> Path:
    state_root.mkdir(mode=0o700, exist_ok=True)
    return state_root / "kheish.db"


def _copied(recorded: Recorded, old_run: str, session_id: str, run_id: str, offset: int) -> Recorded:
    """The entry under other ids: its own JSON with every id of the template replaced, through the journal's codec."""
    body = encode_entry(recorded.entry).decode()
    for kind in ("call", "approval", "msg"):
        body = body.replace(f'"{kind}-', f'"{kind}-{run_id}-')
    body = body.replace(f'"{old_run}"', f'"{run_id}"').replace(f'"{recorded.session_id}"', f'"{session_id}"')
    entry = decode_entry(type_name(recorded.entry), VERSION, body)
    if isinstance(entry, e.InputAccepted):
        entry = replace(entry, agent_id=f"agent-{session_id}")
    return Recorded(session_id=session_id, offset=offset, at_ms=recorded.at_ms, run_id=run_id, entry=entry)
