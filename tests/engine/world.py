"""A small honest world for engine tests: real engine, real tool runtime, a model that is a pure function."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kheish.core.jsonvalue import JsonObject
from kheish.core.messages import FinishReason, Generation, Message, Role, ToolCallPart, ToolResultPart, Usage
from kheish.core.messages import TextPart as Text
from kheish.engine import entries as e
from kheish.engine.engine import Engine
from kheish.engine.entries import Recorded, RouteRef
from kheish.engine.journal import MemoryJournal
from kheish.engine.model_calls import ModelCaller
from kheish.engine.ports import Proposal, Rule
from kheish.engine.state import RunState, SessionState, fold
from kheish.policy.protocol import Behavior, Verdict
from kheish.providers.drivers import Driver
from kheish.providers.protocol import ModelReply, ModelRequest, Provider, TextDelta
from kheish.providers.terms import RouteTerms
from kheish.tools.limits import ToolRuntimeLimits
from kheish.tools.planning import TodoWrite
from kheish.tools.protocol import (
    OutputEmitted,
    Prepared,
    Replay,
    Sandbox,
    ToolCall,
    ToolContext,
    ToolDescriptor,
    ToolOutcome,
)
from kheish.tools.questions import AskUserQuestion
from kheish.tools.registry import ToolRegistry
from kheish.tools.runtime import ToolRuntime

SESSION = "demo"
DEADLINE_S = 10.0


class FakeClock:
    """Stands still until the test moves it; `jump` sets it like an operator does, `value +=` lets time pass."""

    def __init__(self, now_ms: int = 1_000_000) -> None:
        self.value = now_ms
        self._set_by_ms = 0

    def now_ms(self) -> int:
        return self.value

    def elapsed_ms(self) -> int:
        return self.value - self._set_by_ms

    def jump(self, by_ms: int) -> None:
        self.value += by_ms
        self._set_by_ms += by_ms


class CountingIds:
    """Ids of one life; ``life`` keeps a restarted engine from repeating them."""

    def __init__(self, life: str) -> None:
        self._life = life
        self._count = 0

    def new(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}-{self._life}-{self._count}"


@dataclass
class RecordingTool:
    """Writes down each execution; ``hold`` keeps it running until the test lets go, ``known`` is what it settles to."""

    name: str
    replay: Replay
    parallel: bool = False
    executions: list[JsonObject] = field(default_factory=list)
    settled: list[str] = field(default_factory=list)
    """Call ids it was asked about."""
    keys: dict[str, str] = field(default_factory=dict)
    """The idempotency key each call came with."""
    hold: asyncio.Event | None = None
    known: ToolOutcome | None = None
    padding: str = ""
    """Added to every output."""
    outcome: ToolOutcome | None = None
    """In place of the usual one."""
    started: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def descriptor(self) -> ToolDescriptor:
        return ToolDescriptor(
            name=self.name,
            description="A test tool.",
            schema={
                "type": "object",
                "properties": {"n": {"type": "number"}},
                "required": ["n"],
                "additionalProperties": False,
            },
            timeout_ms=60_000,
            sandbox=Sandbox.INHERITED,
            allows_parallel=self.parallel,
            replay=self.replay,
        )

    async def prepare(self, call: ToolCall, context: ToolContext) -> Prepared:
        return _Recording(self, call)

    async def settle(self, call: ToolCall, facts: JsonObject, context: ToolContext) -> ToolOutcome | None:
        self.settled.append(call.id)
        return self.known


class _Recording:
    facts: JsonObject

    def __init__(self, tool: RecordingTool, call: ToolCall) -> None:
        self.facts = {"tool": tool.name}
        self._tool = tool
        self._call = call

    async def run(self) -> ToolOutcome:
        self._tool.executions.append(self._call.input)
        self._tool.keys[self._call.id] = self._call.idempotency_key
        self._tool.started.set()
        if self._tool.hold is not None:
            await self._tool.hold.wait()
        if self._tool.outcome is not None:
            return self._tool.outcome
        effects = (OutputEmitted(content="noted"),) if self._tool.replay is Replay.TRANSACTIONAL else ()
        padding: JsonObject = {"padding": self._tool.padding} if self._tool.padding else {}
        return ToolOutcome(output={"did": self._call.input, **padding}, effects=effects)

    async def abandon(self) -> None:
        return None


class TablePermissions:
    def __init__(self, asks: frozenset[str] = frozenset(), denies: frozenset[str] = frozenset()) -> None:
        self.asks = asks
        self.denies = denies

    def decide(self, tool_name: str, *, session_id: str | None) -> Verdict:
        behavior = Behavior.ALLOW
        if tool_name in self.asks:
            behavior = Behavior.ASK
        if tool_name in self.denies:
            behavior = Behavior.DENY
        return Verdict(decision=behavior, base_decision=behavior, effective_mode="default", scope="session")


Model = Callable[[ModelRequest], ModelReply]


class FunctionModel:
    """A provider that answers with a function of the request; remembers the requests for the test only."""

    driver = "function"

    def __init__(self, model: Model) -> None:
        self._model = model
        self.requests: list[ModelRequest] = []
        self.terms = RouteTerms(driver=Driver.SCRIPTED)

    def provider_for(self, route: RouteRef) -> Provider:
        return self

    def refresh(self, route: RouteRef) -> bool:
        return False

    def terms_for(self, route: RouteRef) -> RouteTerms:
        return self.terms

    async def stream(self, request: ModelRequest) -> AsyncGenerator[TextDelta | ModelReply, None]:
        self.requests.append(request)
        reply = self._model(request)
        yield TextDelta(text="...")
        yield reply


class NoLive:
    def publish_live(self, type: str, *, session_id: str, run_id: str, data: dict[str, object]) -> None:
        return None


def text_reply(text: str, finish: FinishReason = FinishReason.COMPLETED) -> ModelReply:
    return ModelReply(parts=(Text(text=text),), finish_reason=finish, usage=Usage(input_tokens=1, output_tokens=1))


def call_reply(*calls: tuple[str, JsonObject]) -> ModelReply:
    parts = tuple(ToolCallPart(call_id="", name=name, input=given, provider_call_id="same") for name, given in calls)
    return ModelReply(parts=parts, finish_reason=FinishReason.TOOL_CALLS, usage=Usage(input_tokens=1, output_tokens=1))


def turns_so_far(messages: Sequence[Message]) -> int:
    """Assistant messages since the last input."""
    count = 0
    for message in reversed(messages):
        if message.role is Role.USER:
            break
        count += message.role is Role.ASSISTANT
    return count


def results(messages: Sequence[Message]) -> list[ToolResultPart]:
    return [part for message in messages for part in message.parts if isinstance(part, ToolResultPart)]


class World:
    """One life of the engine over a journal."""

    def __init__(
        self,
        model: Model,
        *,
        journal: MemoryJournal | None = None,
        permissions: TablePermissions | None = None,
        life: str = "a",
        clock: FakeClock | None = None,
        policy: e.OnRestart = e.OnRestart.RESUME,
        provider: FunctionModel | None = None,
    ) -> None:
        self.journal = journal or MemoryJournal()
        self.clock = clock or FakeClock()
        self.model = provider or FunctionModel(model)
        self.touch = RecordingTool("touch", Replay.NEVER)
        self.poke = RecordingTool("poke", Replay.NEVER, parallel=True)
        self.pay = RecordingTool("pay", Replay.KEYED, parallel=True)
        self.look = RecordingTool("look", Replay.SAFE, parallel=True)
        self.note = RecordingTool("note", Replay.TRANSACTIONAL)
        self.limits = ToolRuntimeLimits()
        tools = (self.touch, self.poke, self.pay, self.look, self.note, AskUserQuestion(), TodoWrite())
        runtime = ToolRuntime(ToolRegistry(tools))
        self.engine = Engine(
            journal=self.journal,
            models=ModelCaller(
                models=self.model,
                tools=runtime,
                live=NoLive(),
                clock=self.clock,
                ids=CountingIds(life),
                system=lambda run: ("Be brief.",),
            ),
            tools=runtime,
            permissions=permissions or TablePermissions(),
            clock=self.clock,
            limits=lambda: self.limits,
            tool_context=_context,
            restart_policy=policy,
        )

    async def submit(self, text: str = "go", run_id: str = "run-1", **fields: object) -> SessionState:
        return await self.engine.transition(SESSION, submission(text, run_id, **fields))

    async def finish(self, run_id: str = "run-1") -> e.RunEnded:
        await asyncio.wait_for(self.engine.stopped(SESSION, run_id), DEADLINE_S)
        return await self.ending(run_id)

    async def ending(self, run_id: str = "run-1") -> e.RunEnded:
        found = [r.entry for r in await self.journal.load(SESSION) if r.run_id == run_id]
        last = found[-1]
        assert isinstance(last, e.RunEnded)
        return last

    async def quiet(self) -> SessionState:
        await asyncio.wait_for(self.engine.quiescent(SESSION), DEADLINE_S)
        return await self.engine.state(SESSION)

    async def allow_all(self, run_id: str = "run-1") -> None:
        await self.engine.transition(SESSION, resolution(run_id, "allow"))

    async def fold(self) -> SessionState:
        return fold(SESSION, await self.journal.load(SESSION))


def submission(text: str, run_id: str, **fields: object) -> Rule:
    def rule(state: SessionState, now_ms: int) -> Sequence[Proposal]:
        entry = e.InputAccepted(
            agent_id="agent-1",
            kind="input",
            envelope={},
            text=text,
            route=fields.pop("route", RouteRef(route_id="r", driver="function", model="m")),  # type: ignore[arg-type]
            generation=fields.pop("generation", Generation()),  # type: ignore[arg-type]  # named by the test
            summary={},
            **fields,  # type: ignore[arg-type]  # named by the test
        )
        return (Proposal(entry=entry, run_id=run_id),)

    return rule


def resolution(run_id: str, behavior: str, **more: object) -> Rule:
    def rule(state: SessionState, now_ms: int) -> Sequence[Proposal]:
        run = state.run(run_id)
        pending = () if run is None else run.pending_approvals
        if not pending:
            return ()
        made = tuple({"request_id": request["id"], "behavior": behavior, **more} for request in pending)
        return (Proposal(entry=e.ApprovalsResolved(resolutions=made), run_id=run_id),)  # type: ignore[arg-type]

    return rule


def stop(run_id: str, status: e.RunStatus = e.RunStatus.CANCELLED) -> Rule:
    return lambda state, now_ms: (Proposal(entry=e.StopRequested(status=status), run_id=run_id),)


def _context(run: RunState) -> ToolContext:
    return ToolContext(session_id=run.session_id, run_id=run.run_id, workspace_root=Path("/nonexistent"))


def prefix(entries: Sequence[Recorded], length: int) -> MemoryJournal:
    return MemoryJournal(entries[:length])
