"""The composition root: the one place that knows every concrete class."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import structlog
from starlette.types import ASGIApp

from kheish.approvals.service import Approvals
from kheish.auth.broker import Broker, slot_of
from kheish.auth.control_plane import ControlPlane
from kheish.auth.credential_scope import CredentialScope
from kheish.auth.secret_store import SecretStore
from kheish.broker import store as broker_store
from kheish.broker.service import Credentials
from kheish.core.clock import Clock, SystemClock
from kheish.core.ids import IdSource, RandomIds
from kheish.core.problems import Problem
from kheish.core.redaction import Redactor
from kheish.core.values import value_class
from kheish.daemon.app import application
from kheish.daemon.journaling import Journaling, open_journaling
from kheish.daemon.route_source import RouteSource
from kheish.daemon.settings import Settings
from kheish.daemon.state_root import OpenDatabase, explained, open_store, take_state_root
from kheish.daemon.status import StatusBoard
from kheish.daemon.supervisor import Supervisor
from kheish.engine.budgets import Allowance
from kheish.engine.engine import Engine
from kheish.engine.lending import Lender
from kheish.engine.model_calls import ModelCaller
from kheish.engine.observing import ObservedJournal
from kheish.engine.ports import Journal
from kheish.engine.prompt import system_prompt
from kheish.engine.state import RunState
from kheish.external_actions.service import ExternalActions
from kheish.external_actions.trail import Trail, open_trail
from kheish.http.sse import Streams
from kheish.policy.rules import RulePermissions
from kheish.providers.registry import ProviderRegistry
from kheish.providers.routes import RouteInventory
from kheish.questions.service import Questions
from kheish.runs import store as runs_store
from kheish.runs.idempotency import IdempotencyKeys
from kheish.runs.ingress import Ingress
from kheish.runs.retention import Retention
from kheish.runs.service import RunControl, RunLedger
from kheish.runtime.permissions import PermissionChecks
from kheish.runtime.service import Runtime, permission_mode
from kheish.secrets.service import Secrets
from kheish.sessions.service import Sessions
from kheish.store.database import SqliteDatabase
from kheish.store.feed import Feed
from kheish.store.lock import StateLock
from kheish.telemetry.metrics import Metrics
from kheish.telemetry.readings import Readings
from kheish.telemetry.tracing import open_spans
from kheish.tools.builtin import builtin_tools
from kheish.tools.protocol import ToolContext
from kheish.tools.registry import ToolRegistry
from kheish.tools.runtime import ToolRuntime
from kheish.tools.shell import ShellEnvironment

if TYPE_CHECKING:
    from kheish.telemetry.span_queue import SpanQueue

log = structlog.get_logger(__name__)

_LAST_STOP_S = 0.2
"""For a daemon whose drain nobody asked for: what runs is left to resume at once."""
_SPANS_S = 0.5
"""For the last spans, however long the drain took."""


@value_class(frozen=True, kw_only=True, slots=True)
class Daemon:
    """A composed daemon."""

    settings: Settings
    app: ASGIApp
    engine: Engine
    journaling: Journaling
    board: StatusBoard
    control_plane: ControlPlane
    streams: Streams
    supervisor: Supervisor
    reload: Callable[[], Awaitable[None]]
    learn_models: Callable[[], Awaitable[None]] | None
    """None: there is nothing to ask the vendors."""
    unfinished: tuple[str, ...]
    """Sessions with runs to go on with."""

    async def start(self) -> None:
        """Start the timers and go on with what an earlier process left unfinished."""
        self.supervisor.start("timers", self.engine.timers.serve)
        if self.learn_models is not None:
            self.supervisor.start("model-discovery", self.learn_models)
        await self.engine.recover(self.unfinished)
        if self.unfinished:
            log.info("daemon.recovered", sessions=len(self.unfinished))

    async def reload_routes(self) -> None:
        """Read the routes file again; what cannot be used changes nothing. Runs keep the route they are pinned to."""
        try:
            await self.reload()
        except Problem as problem:
            log.error("daemon.routes_not_reloaded", detail=problem.detail)
        else:
            log.info("daemon.routes_reloaded")

    async def drain(self, timeout_s: float) -> None:
        """Not ready any more; finish or suspend what runs, then end the streams."""
        self.board.draining = True
        began = time.monotonic()
        await self.engine.drain(timeout_s)
        self.streams.close()
        await self.journaling.end(max(_SPANS_S, timeout_s - (time.monotonic() - began)))


@asynccontextmanager
async def open_daemon(
    settings: Settings,
    *,
    clock: Clock | None = None,
    ids: IdSource | None = None,
    open_database: OpenDatabase = SqliteDatabase,
    redactor: Redactor | None = None,
) -> AsyncIterator[Daemon]:
    """Take the state root, build the daemon and, on exit, stop it in reverse order.

    Raises:
        StateRootLocked: another daemon owns the state root.
        RoutesError: the routes cannot be used, and empty routes are not allowed.
        Problem: the state root belongs to a newer release.
    """
    async with AsyncExitStack() as stack:
        lock = take_state_root(settings)
        stack.callback(lock.release)
        secret_store = _secret_store(settings)
        source = RouteSource(settings, secret_store, clock or SystemClock())
        with explained(settings.state_root):
            database, feed = open_store(settings, open_database, stack)
            trail = _trail(settings, database, clock)
        spans = open_spans(settings.tracing)
        if spans is not None:
            stack.push_async_callback(spans.close, _LAST_STOP_S)
        supervisor = Supervisor()
        stack.push_async_callback(supervisor.stop)
        providers = ProviderRegistry(source.inventory)
        stack.push_async_callback(providers.aclose)
        parts = _Parts(
            settings=settings,
            redactor=_knowing(redactor or Redactor(), secret_store, settings.master_key),
            lock=lock,
            secret_store=secret_store,
            source=source,
            database=database,
            feed=feed,
            trail=trail,
            providers=providers,
            spans=spans,
            supervisor=supervisor,
            clock=clock or SystemClock(),
            ids=ids or RandomIds(),
        )
        parts.redactor.add(trail.key.forms())
        with explained(settings.state_root):
            daemon = _assemble(parts, _control_plane(parts))
        stack.push_async_callback(daemon.drain, _LAST_STOP_S)
        yield daemon


@value_class(frozen=True, kw_only=True, slots=True)
class _Parts:
    """What the services are made of."""

    settings: Settings
    lock: StateLock
    secret_store: SecretStore
    source: RouteSource
    database: SqliteDatabase
    feed: Feed
    trail: Trail
    providers: ProviderRegistry
    spans: SpanQueue | None
    supervisor: Supervisor
    clock: Clock
    ids: IdSource
    redactor: Redactor

    def secret_changed(self, slot_id: str) -> None:
        """A secret was written or removed: what was made with it is made anew, what it was is still masked."""
        self.providers.secret_changed(slot_id)
        self.redactor.add(secret for slot in self.secret_store.slots.values() for secret in slot.secrets())

    def routes_changed(self, inventory: RouteInventory) -> None:
        """Other routes are in force: their keys are masked, and later calls go over them."""
        self.redactor.add(route.api_key.value for route in inventory.routes if route.api_key and route.api_key.value)
        self.providers.replace_routes(inventory)
        self.source.record(inventory)


def _secret_store(settings: Settings) -> SecretStore:
    return SecretStore(settings.state_root, settings.master_key, require_encrypted=settings.require_encrypted_secrets)


def _control_plane(parts: _Parts) -> ControlPlane:
    return ControlPlane(
        settings=parts.settings.access,
        bind_host=parts.settings.bind_host,
        audit=parts.settings.state_root / "control-plane-auth" / "audit.jsonl",
        clock=parts.clock,
    )


def _assemble(parts: _Parts, control_plane: ControlPlane) -> Daemon:
    settings, database, feed = parts.settings, parts.database, parts.feed
    tools = ToolRuntime(ToolRegistry(builtin_tools(ShellEnvironment().variables(settings.environ))), parts.redactor)
    permissions = RulePermissions(mode=permission_mode(settings.permission_mode))
    runtime = _runtime(parts, permissions, tools)
    database.run_offline(runtime.restore)
    broker = _broker(parts)
    # Sessions need the engine, and the engine asks them about a session only when it calls a model.
    credentials = _credentials(parts, runtime, broker, lambda session_id: sessions.credential_scope(session_id))
    journaling = _journaling(parts, tools)
    allowance = Allowance(settings.budgets, journaling.spending)
    engine = _engine(parts, journaling.observed, tools, permissions, runtime, credentials, allowance)
    ledger = RunLedger(database=database, journal=journaling.journal)
    sessions = Sessions(
        database=database,
        journal=journaling.journal,
        engine=engine,
        feed=feed,
        runs=ledger,
        shown=journaling.shown,
        clock=parts.clock,
        ids=parts.ids,
    )
    board = _board(parts, control_plane, engine, ledger, sessions, runtime)
    streams = Streams()
    checks = PermissionChecks(permissions=permissions, sessions=sessions, tool_names=tools.names)
    work = _work(parts, engine, sessions, ledger, runtime)
    metrics = Metrics(
        journaling.counters, take=_readings(parts, board, engine, journaling.observed, ledger, sessions).take
    )
    actions = ExternalActions(database=database, ledger=ledger, keys=parts.trail.keys)
    retention = Retention(database=database, clock=parts.clock)
    facades = (ledger, sessions, runtime, board, feed, streams, checks, metrics)
    services = (_secrets(parts, broker), credentials, retention, actions, *facades, *work)
    return Daemon(
        settings=settings,
        app=application(services, control_plane, max_body_bytes=settings.http_max_body_bytes),
        engine=engine,
        journaling=journaling,
        board=board,
        control_plane=control_plane,
        streams=streams,
        supervisor=parts.supervisor,
        reload=partial(_reload, parts, runtime),
        learn_models=partial(_learn_models, parts, runtime) if parts.source.asks_about_models else None,
        unfinished=tuple(database.run_offline(runs_store.live_sessions)),
    )


def _journaling(parts: _Parts, tools: ToolRuntime) -> Journaling:
    return open_journaling(
        parts.database,
        feed=parts.feed,
        trail=parts.trail,
        tools=tools,
        spans=parts.spans,
        clock=parts.clock,
        budget_period_hours=parts.settings.budget_period_hours,
    )


def _secrets(parts: _Parts, broker: Broker) -> Secrets:
    return Secrets(
        store=parts.secret_store, clock=parts.clock, changed=parts.secret_changed, revoked_at=broker.revoked_at
    )


def _credentials(
    parts: _Parts, runtime: Runtime, broker: Broker, scope_of: Callable[[str], Awaitable[CredentialScope]]
) -> Credentials:
    def slot_behind(route_id: str) -> str:
        route = runtime.routes().find(route_id)
        return slot_of(route_id, None if route is None else route.auth_ref)

    def known_slots() -> frozenset[str]:
        behind_routes = (slot_of(route.route_id, route.auth_ref) for route in runtime.routes().routes)
        return frozenset(parts.secret_store.slots).union(behind_routes)

    return Credentials(
        broker=broker,
        database=parts.database,
        clock=parts.clock,
        scope_of=scope_of,
        slot_behind=slot_behind,
        known_slots=known_slots,
    )


def _broker(parts: _Parts) -> Broker:
    now = parts.clock.now_ms()

    def written_at(slot_id: str) -> int | None:
        slot = parts.secret_store.find(slot_id)
        return None if slot is None else slot.updated_at_ms

    return Broker(
        clock=parts.clock,
        written_at=written_at,
        revocations=parts.database.run_offline(broker_store.revocations),
        leases=parts.database.run_offline(lambda reader: broker_store.leases(reader, now)),
    )


def _runtime(parts: _Parts, permissions: RulePermissions, tools: ToolRuntime) -> Runtime:
    return Runtime(
        database=parts.database,
        feed=parts.feed,
        clock=parts.clock,
        inventory=parts.source.inventory,
        read_route=parts.source.route,
        routes_changed=parts.routes_changed,
        permissions=permissions,
        tool_names=tools.names,
        store_path=str(parts.settings.state_root / "kheish.db"),
        restart_policy=parts.settings.restart_policy.value,
    )


def _board(
    parts: _Parts,
    control_plane: ControlPlane,
    engine: Engine,
    ledger: RunLedger,
    sessions: Sessions,
    runtime: Runtime,
) -> StatusBoard:
    return StatusBoard(
        settings=parts.settings,
        control_plane=control_plane,
        database=parts.database,
        trail=parts.trail,
        secrets=parts.secret_store,
        routes=parts.source,
        feed=parts.feed,
        lock=parts.lock,
        engine=engine,
        ledger=ledger,
        sessions=sessions,
        runtime=runtime,
        supervisor=parts.supervisor,
        clock=parts.clock,
    )


def _readings(
    parts: _Parts,
    board: StatusBoard,
    engine: Engine,
    journal: ObservedJournal,
    ledger: RunLedger,
    sessions: Sessions,
) -> Readings:
    return Readings(
        ledger=ledger,
        sessions=sessions,
        engine=engine,
        journal=journal,
        database=parts.database,
        feed=parts.feed,
        clock=parts.clock,
        ready=lambda: not board.draining,
        spans=lambda: None if parts.spans is None else parts.spans.counts,
    )


def _work(
    parts: _Parts, engine: Engine, sessions: Sessions, ledger: RunLedger, runtime: Runtime
) -> tuple[Ingress, RunControl, Approvals, Questions]:
    """The services that begin, end and resume runs."""
    keys = IdempotencyKeys(database=parts.database, clock=parts.clock)
    ingress = Ingress(
        engine=engine,
        sessions=sessions,
        ledger=ledger,
        keys=keys,
        routes=runtime.routes,
        max_turns=parts.settings.max_turns,
    )
    return (
        ingress,
        RunControl(engine=engine, ledger=ledger),
        Approvals(engine=engine, sessions=sessions, ledger=ledger, keys=keys),
        Questions(engine=engine, sessions=sessions, ledger=ledger, keys=keys),
    )


def _engine(
    parts: _Parts,
    journal: Journal,
    tools: ToolRuntime,
    permissions: RulePermissions,
    runtime: Runtime,
    lender: Lender,
    allowance: Allowance,
) -> Engine:
    settings = parts.settings
    forbidden = (settings.state_root.resolve(),)
    sections = system_prompt(settings.workspace_root)

    def tool_context(run: RunState) -> ToolContext:
        return ToolContext(
            session_id=run.session_id,
            run_id=run.run_id,
            workspace_root=settings.workspace_root,
            forbidden_roots=forbidden,
            now_ms=parts.clock.now_ms(),
        )

    models = ModelCaller(
        models=parts.providers,
        tools=tools,
        live=parts.feed,
        clock=parts.clock,
        ids=parts.ids,
        system=lambda run: sections,
        allowance=allowance,
        lender=lender,
    )
    return Engine(
        journal=journal,
        models=models,
        tools=tools,
        permissions=permissions,
        clock=parts.clock,
        limits=runtime.tool_limits,
        tool_context=tool_context,
        last_run_number=parts.database.run_offline(runs_store.last_number),
        restart_policy=settings.restart_policy,
    )


def _trail(settings: Settings, database: SqliteDatabase, clock: Clock | None) -> Trail:
    now_ms = (clock or SystemClock()).now_ms()
    return database.run_offline(
        lambda connection: open_trail(connection, settings.state_root, settings.audit_key, now_ms=now_ms)
    )


async def _reload(parts: _Parts, runtime: Runtime) -> None:
    await runtime.replace_routes(await asyncio.to_thread(parts.source.again))
    await _learn_models(parts, runtime)


async def _learn_models(parts: _Parts, runtime: Runtime) -> None:
    if parts.source.asks_about_models:
        await runtime.replace_routes(await asyncio.to_thread(parts.source.with_models))


def _knowing(redactor: Redactor, store: SecretStore, master_key: bytes | None) -> Redactor:
    """Everything secret of the store; of its tokens the daemon keeps digests only."""
    if master_key is not None:
        redactor.add([base64.b64encode(master_key).decode(), master_key.hex(), master_key.decode(errors="replace")])
    redactor.add(secret for slot in store.slots.values() for secret in slot.secrets())
    return redactor
