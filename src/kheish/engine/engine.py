"""The engine: finds or starts the worker of a session, and knows who waits for what."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

import structlog

from kheish.core.clock import Clock
from kheish.core.problems import Problem, StoreRejected, StoreUnavailable, StoreUnreadable
from kheish.engine import entries as e
from kheish.engine.effects import ToolCaller
from kheish.engine.entries import OnRestart, RunStatus
from kheish.engine.hands import Command, Draining, Hands
from kheish.engine.judge import Judge
from kheish.engine.memory import SessionMemory, remembered
from kheish.engine.model_calls import ModelCaller
from kheish.engine.ports import Journal, Proposal, RecoveryCounts, Rule
from kheish.engine.quarantine import Quarantine
from kheish.engine.state import RunState, SessionState
from kheish.engine.timers import TimerService
from kheish.engine.worker import SessionWorker
from kheish.policy.protocol import Permissions
from kheish.store.database import Transaction
from kheish.tools.limits import ToolRuntimeLimits
from kheish.tools.orphans import kill_orphans
from kheish.tools.protocol import Replay, ToolContext
from kheish.tools.runtime import ToolRuntime

log = structlog.get_logger(__name__)

RECENT_SESSIONS = 256
"""Idle sessions whose projection stays in memory; the others are folded again when they are used."""
RECENT_BYTES = 128 << 20
"""Of these projections together, about."""
_RECOVER_AT_ONCE = 32
_STORE_RETRY_MS = 5_000
_UNREADABLE_RETRY_MS = 60_000
"""A page that cannot be read seldom gets better by itself, and each try reads a whole journal."""
INTERRUPTED_BY_RESTART = "daemon restarted while the run was active"


class SessionCrashed(Problem):
    """The session met a bug of the daemon; the daemon's log has the details."""

    domain, code, status = "sessions", "session_crashed", 500


_Watcher = tuple[Callable[[SessionState], bool], asyncio.Future[None]]


class Engine:
    """Owns every run of this daemon."""

    def __init__(
        self,
        *,
        journal: Journal,
        models: ModelCaller,
        tools: ToolRuntime,
        permissions: Permissions,
        clock: Clock,
        limits: Callable[[], ToolRuntimeLimits],
        tool_context: Callable[[RunState], ToolContext],
        last_run_number: int = 0,
        restart_policy: OnRestart = OnRestart.RESUME,
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._run_number = last_run_number
        self._at_boot = restarted(restart_policy)
        self.timers = TimerService(clock=clock, wake=self._wake)
        self._hands = Hands(
            journal=journal,
            judge=Judge(tools=tools, permissions=permissions, limits=limits),
            models=models,
            tools=ToolCaller(tools=tools, context=tool_context, limits=limits),
            runtime=tools,
            clock=clock,
            host=self,
        )
        self._workers: dict[str, SessionWorker] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._recent: OrderedDict[str, SessionMemory] = OrderedDict()
        self._recent_bytes = 0
        self._watchers: dict[str, list[_Watcher]] = {}
        self.quarantine = Quarantine()
        # What the store refused of a session, and what a session must make durable, before it goes on.
        self._held: dict[str, SessionWorker] = {}
        self._owed: dict[str, Rule] = {}
        self._draining = False
        self.recovered = RecoveryCounts()

    @property
    def active_sessions(self) -> int:
        """Sessions with a task of their own right now."""
        return len(self._workers)

    @property
    def held_sessions(self) -> int:
        """Sessions that wait for the store to take what they have done."""
        return len(self._held)

    @property
    def draining(self) -> bool:
        return self._draining

    def next_run_id(self) -> str:
        """Mint `run-<n>`; numbers only grow, and one that was never committed was never seen."""
        self._run_number += 1
        return f"run-{self._run_number}"

    async def transition(
        self, session_id: str, rule: Rule, *, also: Callable[[Transaction], None] | None = None
    ) -> SessionState:
        """Run a pure rule in the session's own task and commit what it proposes, together with ``also``.

        Raises:
            Problem: the rule or ``also`` refused; nothing was changed.
            Draining: the daemon is shutting down.
        """
        if self._draining:
            raise Draining
        done: asyncio.Future[SessionState] = asyncio.get_running_loop().create_future()
        self._worker(session_id).post(Command(rule, also, done))
        return await done

    async def state(self, session_id: str) -> SessionState:
        """The session's execution state as it is now."""
        return await self.transition(session_id, _nothing)

    async def stopped(self, session_id: str, run_id: str) -> None:
        """Wait until the run is terminal."""
        await self._until(session_id, lambda state: state.run(run_id) is None)

    async def settled(self, session_id: str, run_id: str) -> None:
        """Wait until the run is over or waits for a human; what is queued behind it does not matter."""

        def holds(state: SessionState) -> bool:
            run = state.run(run_id)
            return run is None or run.status.waiting

        await self._until(session_id, holds)

    async def quiescent(self, session_id: str) -> None:
        """Wait until nothing of the session runs: it is idle, or its active run waits for a human."""
        await self._until(session_id, _is_quiescent)

    async def recover(self, session_ids: Iterable[str]) -> None:
        """Go on with what the journal says is unfinished in these sessions. Called once, at boot."""
        gate = asyncio.Semaphore(_RECOVER_AT_ONCE)

        async def one(session_id: str) -> None:
            async with gate:
                await self._recover(session_id)

        async with asyncio.TaskGroup() as group:
            for session_id in session_ids:
                group.create_task(one(session_id))

    async def drain(self, timeout_s: float) -> None:
        """Start nothing new, give what runs ``timeout_s`` seconds, then stop it; it resumes after a restart."""
        self._draining = True
        for session_id in tuple(self._held):
            self._worker(session_id)
        for worker in tuple(self._workers.values()):
            worker.drain()
        late = set(self._tasks)
        if late:
            _, late = await asyncio.wait(late, timeout=timeout_s)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)
        for watchers in self._watchers.values():
            for _, future in watchers:
                if not future.done():
                    future.set_exception(Draining())
        self._watchers.clear()

    # What workers tell

    def changed(self, state: SessionState) -> None:
        watchers = self._watchers.get(state.session_id)
        if not watchers:
            return
        still = [watcher for watcher in watchers if not self._notify(watcher, state)]
        if still:
            self._watchers[state.session_id] = still
        else:
            del self._watchers[state.session_id]

    def wake_at(self, session_id: str, due_ms: int | None, now_ms: int) -> None:
        if due_ms is None:
            self.timers.clear(session_id)
        else:
            self.timers.set(session_id, due_ms, in_ms=due_ms - now_ms)

    # Inside

    def _notify(self, watcher: _Watcher, state: SessionState) -> bool:
        holds, future = watcher
        if future.done():
            return True
        if not holds(state):
            return False
        future.set_result(None)
        return True

    async def _until(self, session_id: str, holds: Callable[[SessionState], bool]) -> None:
        if self._draining:
            raise Draining
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        watcher = (holds, future)
        self._watchers.setdefault(session_id, []).append(watcher)
        try:
            known = self._durable(session_id)
            if not holds(await self.state(session_id) if known is None else known):
                await future
        finally:
            self._forget(session_id, watcher)

    def _durable(self, session_id: str) -> SessionState | None:
        """The session as of its last commit, where asking its task for it can be saved."""
        worker, memory = self._workers.get(session_id), self._recent.get(session_id)
        if worker is not None:
            return worker.durable
        return None if memory is None else memory.state

    def _forget(self, session_id: str, watcher: _Watcher) -> None:
        """Whoever stops waiting, for whatever reason, leaves nothing behind."""
        watchers = self._watchers.get(session_id, [])
        if watcher in watchers:
            watchers.remove(watcher)
        if not watchers:
            self._watchers.pop(session_id, None)
        # Also marks an exception that nobody waits for any longer as seen.
        if not watcher[1].cancel() and not watcher[1].cancelled():
            watcher[1].exception()

    async def _recover(self, session_id: str) -> None:
        self._owed[session_id] = self._at_boot
        try:
            memory = await remembered(self._journal, session_id)
            for intent in _in_flight(memory.state):
                killed = await asyncio.to_thread(kill_orphans, intent.facts)
                if killed:
                    self.recovered.killed_processes += killed
                    log.warning("recovery.orphans_killed", session_id=session_id, processes=killed)
            # The session's task takes it from there: the journal is read once.
            self._remember(session_id, memory)
            await self.transition(session_id, _nothing)
        except Problem as problem:
            # A damaged session stays as it is; the rest of the daemon goes on.
            self._stopped(session_id, problem)
            self.recovered.failed_sessions += 1
            log.error("recovery.session_failed", session_id=session_id, code=problem.code, detail=problem.detail)
        # Boot is for all sessions: not even a bug met on the way of one may keep the others down.
        except Exception:
            self._stopped(session_id, SessionCrashed())
            self.recovered.failed_sessions += 1
            log.exception("recovery.session_crashed", session_id=session_id)

    def _wake(self, session_id: str, due_ms: int) -> None:
        if self._draining:
            return
        stopped = session_id in self._held or session_id in self._owed
        worker = self._worker(session_id)
        if not stopped:
            worker.wake(due_ms)

    def _worker(self, session_id: str) -> SessionWorker:
        worker = self._workers.get(session_id)
        if worker is None:
            worker = self._held.pop(session_id, None) or self._remembering(session_id)
            self._workers[session_id] = worker
            if session_id in self._owed:
                worker.post(self._repayment(session_id))
            task = asyncio.get_running_loop().create_task(self._serve(worker), name=f"session:{session_id}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return worker

    def _remembering(self, session_id: str) -> SessionWorker:
        memory = self._recent.pop(session_id, None)
        if memory is not None:
            self._recent_bytes -= memory.transcript.memory_bytes
        return SessionWorker(session_id, self._hands, memory)

    def _repayment(self, session_id: str) -> Command:
        """The command that makes durable what the session owes."""

        def paid(done: asyncio.Future[SessionState]) -> None:
            # The worker says in the log what failed; nobody else waits for this command.
            if not done.cancelled() and done.exception() is None:
                self._owed.pop(session_id, None)

        done: asyncio.Future[SessionState] = asyncio.get_running_loop().create_future()
        done.add_done_callback(paid)
        return Command(self._owed[session_id], None, done)

    async def _serve(self, worker: SessionWorker) -> None:
        session_id = worker.session_id
        keep = False
        try:
            await worker.run()
            keep = True
            self.quarantine.release(session_id)
        except StoreUnavailable as problem:
            log.error("session.store_unavailable", session_id=session_id, code=problem.code, detail=problem.detail)
            if worker.unsaved and not isinstance(problem, StoreRejected):
                self._held[session_id] = worker
            else:
                # What is in memory may not be what is on the disk: it is read again.
                self._owed.setdefault(session_id, resume)
            self._stopped(session_id, problem)
        except Problem as problem:
            log.error("session.failed", session_id=session_id, code=problem.code, detail=problem.detail)
            self._stopped(session_id, problem)
            self._disappoint(session_id, problem)
        # One failing session never takes the daemon down; its journal is as good as before.
        except Exception as error:
            log.exception("session.crashed", session_id=session_id)
            self._stopped(session_id, SessionCrashed())
            self._disappoint(session_id, error)
        finally:
            del self._workers[session_id]
            if keep and worker.memory is not None:
                self._remember(session_id, worker.memory)

    def _stopped(self, session_id: str, problem: Problem) -> None:
        """The session's task ended before its work; look again later where that may help."""
        now_ms = self._clock.now_ms()
        match problem:
            case StoreUnavailable():
                self.timers.set(session_id, now_ms + _STORE_RETRY_MS, in_ms=_STORE_RETRY_MS)
            case StoreUnreadable():
                self.timers.set(session_id, now_ms + _UNREADABLE_RETRY_MS, in_ms=_UNREADABLE_RETRY_MS)
            case _:
                pass
        # A store that takes no writes is the whole daemon's trouble, not this session's.
        if isinstance(problem, StoreRejected) or not isinstance(problem, StoreUnavailable | Draining):
            self.quarantine.add(session_id, problem, at_ms=now_ms)

    def _disappoint(self, session_id: str, error: Exception) -> None:
        """Nobody may wait for a session that does not go on."""
        for _, future in self._watchers.pop(session_id, ()):
            if not future.done():
                future.set_exception(error)

    def _remember(self, session_id: str, memory: SessionMemory) -> None:
        self._recent[session_id] = memory
        self._recent_bytes += memory.transcript.memory_bytes
        # The newest stays whatever its size: it may well be used again next.
        while len(self._recent) > 1 and (len(self._recent) > RECENT_SESSIONS or self._recent_bytes > RECENT_BYTES):
            _, oldest = self._recent.popitem(last=False)
            self._recent_bytes -= oldest.transcript.memory_bytes


def _in_flight(state: SessionState) -> list[e.ToolIntended]:
    """The intents without an outcome: what they began may still be running."""
    if state.active is None:
        return []
    return [call.intent for call in state.active.calls if call.intent is not None and call.in_doubt]


def _nothing(state: SessionState, now_ms: int) -> Sequence[Proposal]:
    return ()


def _is_quiescent(state: SessionState) -> bool:
    if state.active is None:
        return not state.queue
    return state.active.status.waiting


def restarted(policy: OnRestart) -> Rule:
    """The rule of boot: a run that was running goes on or ends, as it was accepted to do, else as ``policy`` says.

    Queued and waiting runs keep their place either way.
    """

    def rule(state: SessionState, now_ms: int) -> Sequence[Proposal]:
        run = state.active
        if run is None or run.status is not RunStatus.RUNNING or run.stop is not None:
            return ()
        if (run.accepted.on_restart or policy) is OnRestart.RESUME:
            return resume(state, now_ms)
        entry = e.StopRequested(status=RunStatus.INTERRUPTED, error=INTERRUPTED_BY_RESTART)
        return (Proposal(entry=entry, run_id=run.run_id),)

    return rule


def resume(state: SessionState, now_ms: int) -> Sequence[Proposal]:
    """Say in the journal that a run which was running goes on, what is reused and what may have happened."""
    run = state.active
    if run is None or run.status is not RunStatus.RUNNING or run.stop is not None:
        return ()
    if run.due_at_ms is not None and run.due_at_ms > now_ms:
        return ()
    in_doubt = [
        call.call.call_id
        for call in run.calls
        if call.in_doubt and call.decision is not None and call.decision.replay != Replay.TRANSACTIONAL
    ]
    reused = [call.call.call_id for call in run.calls if call.finished is not None]
    entry = e.Resumed(
        reason="daemon_restart",
        turn=run.turn,
        reused_call_ids=tuple(reused),
        in_doubt_call_ids=tuple(in_doubt),
    )
    return (Proposal(entry=entry, run_id=run.run_id),)
