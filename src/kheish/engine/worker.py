"""The session worker: one task that owns all transitions of one active session."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import assert_never

import structlog

from kheish.core.problems import Problem, StoreUnavailable
from kheish.engine import entries as e
from kheish.engine.asking import in_doubt, question_or_fault
from kheish.engine.decide import (
    AskHuman,
    AskPermission,
    CallModel,
    Compact,
    Finish,
    FollowUp,
    RunTools,
    Settle,
    Step,
    Wait,
    decide,
)
from kheish.engine.effects import ToolBatch
from kheish.engine.entries import Recorded, RunStatus
from kheish.engine.hands import Command, Draining, Hands
from kheish.engine.in_flight import InFlight
from kheish.engine.memory import Buffer, SessionMemory, remembered
from kheish.engine.model_calls import ModelCall, stopped_call
from kheish.engine.ports import Also, Proposal, Transition
from kheish.engine.relief import relieve
from kheish.engine.state import CallState, RunState, SessionState, advanced, touched
from kheish.tools.protocol import ToolCall

log = structlog.get_logger(__name__)


class _Unwritable(Exception):
    """What was decided cannot become a row, now or later: a value without an encoding, a bug in a projection."""


_Ahead = Callable[[], CallModel | None]


class SessionWorker:
    """Runs while its session has something to do; `run` returns when it is idle or waits for a human or a time."""

    def __init__(self, session_id: str, hands: Hands, memory: SessionMemory | None) -> None:
        self.session_id = session_id
        self.memory = memory
        self._hands = hands
        self._inbox: deque[Command] = deque()
        self._awake = asyncio.Event()
        self._flight = InFlight(self._awake.set)
        self._buffer = Buffer()
        self._draining = False
        self._woken_at_ms = 0
        self._durable: tuple[SessionState, int] | None = None
        """State and last time as of the last commit."""
        self._rescuing = False
        """Entries were given up and their run failed; nothing was committed since."""
        self._next_call: ModelCall | None = None
        """Whose request was written while the last commit was under way; nothing was recorded since."""

    def post(self, command: Command) -> None:
        self._inbox.append(command)
        self._awake.set()

    def wake(self, due_ms: int) -> None:
        """A wait is over: it is ``due_ms`` for this session, whatever a clock that was set back says."""
        self._woken_at_ms = max(self._woken_at_ms, due_ms)
        self._awake.set()

    def drain(self) -> None:
        """Start nothing new; `run` returns after what is in flight."""
        self._draining = True
        self._awake.set()

    @property
    def state(self) -> SessionState:
        assert self.memory is not None
        return self.memory.state

    @property
    def durable(self) -> SessionState | None:
        """The session as of the last commit; None before its journal was read."""
        return None if self._durable is None else self._durable[0]

    @property
    def unsaved(self) -> bool:
        """It holds outcomes that are not durable: what a model said or a tool did."""
        return bool(self._buffer.entries)

    async def run(self) -> None:
        """Serve until there is nothing to do. Cancelling aborts what is in flight and records nothing.

        After a `StoreUnavailable` it can be called again: what is unsaved is saved before anything else happens.
        """
        try:
            await self._load()
            await self._save()
            while await self._turn():
                pass
        except BaseException as error:
            try:
                await self._flight.abandon()
            finally:
                # Last, and without a pause before this worker is forgotten: a command posted until now gets its answer.
                self._refuse_waiting(error)
            raise

    async def _turn(self) -> bool:
        while self._inbox:
            await self._handle(self._inbox.popleft())
        if self._flight.busy:
            await self._woken()
            return True
        self._absorb()
        if await self._advance() or self._inbox:
            return True
        self._flight.endings.begin()
        if not self._flight.endings.under_way:
            return False
        await self._woken()
        return True

    async def _woken(self) -> None:
        """Wait until something ends, somebody comes or a time is over."""
        self._awake.clear()
        if not self._inbox:
            await self._awake.wait()

    async def _load(self) -> None:
        if self.memory is None:
            self.memory = await remembered(self._hands.journal, self.session_id)
        if self._durable is None:
            self._mark_durable()

    # Commands: rules of the capabilities

    async def _handle(self, command: Command) -> None:
        try:
            proposals = command.rule(self.state, self._now())
            if proposals:
                await self._commit_command(command, proposals)
        # A rule belongs to its caller: whatever it raises goes back there and touches no run.
        except Exception as error:
            if not command.done.done():
                command.done.set_exception(error)
            # Without a store nothing may go on: a model would be asked again and again for replies nobody can keep.
            if isinstance(error, StoreUnavailable) and self._flight.effect is None:
                raise
            return
        except BaseException:
            if not command.done.done():
                command.done.set_exception(Draining())
            raise
        if not command.done.done():
            command.done.set_result(self.state)
        active = self.state.active
        if active is not None and active.stop is not None:
            await self._abort(active)

    async def _commit_command(self, command: Command, proposals: Sequence[Proposal]) -> None:
        for proposal in proposals:
            self._record(proposal.entry, proposal.run_id)
        for queued in self.state.queue:
            if queued.stop is not None:
                self._record(e.RunEnded(status=queued.stop.status, error=queued.stop.error), queued.run_id)
        promoted = self._promote()
        try:
            await self._flush(also=command.also, ahead=self._first_call if promoted else None)
        except BaseException:
            # Refused as a whole: the buffer held this command's entries only.
            self._give_up()
            raise

    # The law: fold, decide, record, perform

    async def _advance(self) -> bool:
        """Go on until an effect is in flight (True) or there is nothing to do (False)."""
        while True:
            try:
                going = await self._step()
            except Problem:
                raise
            except _Unwritable as error:
                self._rescue(error)
            # A bug in judging or preparing ends its run, never the session or the daemon.
            except Exception as error:
                if self.state.active is None:
                    raise
                self._fail_run(self.state.active.run_id, error)
            else:
                if going is not None:
                    return going

    async def _step(self) -> bool | None:
        """One step of the active run, or of the next one: True, False and None as in `_take`."""
        run = self.state.active
        if run is None:
            if self._promote():
                return None
            await self._save()
            return False
        if self._draining and not run.status.waiting:
            await self._save()
            return False
        return await self._take(run, decide(run))

    def _relief(self, run: RunState, step: CallModel) -> Compact | None:
        assert self.memory is not None
        window, standing = self._buffer.window(self.memory), self._hands.models.standing_tokens(run)
        return relieve(run, step, window, now_ms=self._now(), standing_tokens=standing)

    async def _compact(self, run: RunState, step: Compact) -> bool:
        """Make the window smaller; True when the model has to be asked for a summary first."""
        for entry in step.entries:
            self._record(entry, run.run_id)
        if step.summarise:
            await self._save()
            assert self.memory is not None
            loan = self._hands.models.loan()
            self._flight.start(run.run_id, self._hands.models.summarise(run, self.memory.transcript.copy(), loan), loan)
        return step.summarise

    async def _take(self, run: RunState, step: Step) -> bool | None:
        """Take one step: True when an effect is in flight, False when there is nothing to do, None to decide again."""
        match step:
            case Finish():
                await self._hands.tools.clear_away(run)
                self._record(e.RunEnded(status=step.status, error=step.error, output=step.output), run.run_id)
                self._hands.tools.forget(run.run_id)
            case FollowUp(entry=entry):
                self._record(entry, run.run_id)
            case AskPermission(calls=calls):
                self._record(self._hands.judge.decide(run, calls), run.run_id)
            case AskHuman(call=call):
                self._ask(run, call)
            case Wait(until_ms=until_ms):
                return None if await self._wait(run, until_ms) else False
            case CallModel():
                if self._next_call is None:
                    if (relief := self._relief(run, step)) is not None:
                        return await self._take(run, relief)
                    await self._save(ahead=lambda: step)
                # The connection of the last answer is free then: another one costs more.
                await self._flight.endings.wait()
                self._start_model(run, step)
                return True
            case Compact():
                return await self._compact(run, step) or None
            case RunTools() | Settle():
                return await self._start_tools(run, step) or None
            case _:
                assert_never(step)
        return None

    def _promote(self) -> bool:
        """Give the free slot to the head of the queue."""
        if self._draining or self.state.active is not None or not self.state.queue:
            return False
        self._record(e.RunStarted(), self.state.queue[0].run_id)
        return True

    def _ask(self, run: RunState, state: CallState) -> None:
        part = state.call
        asked = self._hands.runtime.ask(ToolCall(id=part.call_id, name=part.name, input=state.input))
        wall_ms = self._hands.clock.now_ms()
        self._record(question_or_fault(part, asked, now_ms=self._now(), wall_ms=wall_ms), run.run_id)

    async def _wait(self, run: RunState, until_ms: int | None) -> bool:
        """Return True when the due time has passed already and the run can go on."""
        if until_ms is not None and until_ms <= self._now():
            if run.status is RunStatus.WAITING_FOR_USER_QUESTION:
                request = run.pending_questions[0]["id"]
                error = f"question request {request} expired at {until_ms}"
                self._record(e.StopRequested(status=RunStatus.CANCELLED, error=error), run.run_id)
            else:
                self._record(e.Woken(), run.run_id)
            return True
        await self._save()
        self._hands.host.wake_at(self.session_id, until_ms, self._now())
        return False

    def _start_model(self, run: RunState, step: CallModel) -> None:
        assert self.memory is not None
        call = self._next_call or self._hands.models.call(run, step, self.memory.transcript)
        self._next_call = None
        self._flight.start(run.run_id, self._hands.models.perform(call), call)

    async def _start_tools(self, run: RunState, step: RunTools | Settle) -> bool:
        """Record the intents and start; False when every outcome was known without running anything."""
        batch = await self._hands.tools.batch(run, step.calls)
        if batch.unexplained:
            self._record(in_doubt(run, batch.unexplained), run.run_id)
            return False
        if batch.settled:
            for result in batch.results():
                self._record(result, run.run_id)
            return False
        assert self.memory is not None
        before = self.state, self.memory.last_at_ms, self._buffer.copy()
        try:
            for intent in batch.intents():
                self._record(intent, run.run_id)
            await self._save()
        except BaseException:
            # Nothing has begun: an intent that is written later would say that it may have.
            self.memory.state, self.memory.last_at_ms, self._buffer = before
            await batch.abandon()
            raise
        self._flight.start(run.run_id, batch.run(), batch)
        return True

    def _absorb(self) -> None:
        """Take what a finished effect brought into the buffer."""
        effect = self._flight.landed()
        if effect is None:
            return
        if effect.task.cancelled():
            error: BaseException | None = asyncio.CancelledError()
        else:
            error = effect.task.exception()
        if error is not None:
            self._fail_run(effect.run_id, error)
            return
        if isinstance(effect.doing, ToolBatch):
            for result in effect.doing.results():
                self._record(result, effect.run_id)
        elif (entry := effect.task.result()) is not None:
            self._record(entry, effect.run_id)

    def _fail_run(self, run_id: str, error: BaseException) -> None:
        # A bug in an adapter or a tool ends its run, never the daemon or the session.
        log.error("run.failed_internally", run_id=run_id, error=type(error).__name__, exc_info=error)
        message = f"internal error while the run was working ({type(error).__name__}); the daemon's log has the details"
        self._record(e.RunEnded(status=RunStatus.FAILED, error=message), run_id)
        self._hands.tools.forget(run_id)

    async def _abort(self, run: RunState) -> None:
        """A stop was recorded: end what is in flight and keep what it had finished."""
        effect = self._flight.effect
        if effect is None or effect.run_id != run.run_id:
            return
        await self._flight.stop()
        if isinstance(effect.doing, ToolBatch):
            for result in effect.doing.results():
                self._record(result, effect.run_id)
        elif effect.doing.use is not None:
            self._record(stopped_call(run, effect.doing.use), effect.run_id)
        # A refused command must find nothing but its own entries in the buffer.
        try:
            await self._save()
        except _Unwritable as error:
            # The run is over anyway; the model reads that these calls were stopped.
            log.error("run.results_unwritable", run_id=run.run_id, exc_info=error.__cause__)
            self._give_up()

    # Recording

    def _mark_durable(self) -> None:
        assert self.memory is not None
        self._durable = (self.memory.state, self.memory.last_at_ms)

    def _give_up(self) -> None:
        """Go back to what is durable."""
        assert self.memory is not None
        assert self._durable is not None
        self.memory.state, self.memory.last_at_ms = self._durable
        self._buffer = Buffer()

    def _rescue(self, error: _Unwritable) -> None:
        """End the run whose entries cannot be written, with the reason; once, for that may be impossible as well."""
        self._give_up()
        cause = error.__cause__ or error
        if self._rescuing or self.state.active is None:
            raise cause
        self._rescuing = True
        self._fail_run(self.state.active.run_id, cause)

    async def _save(self, *, ahead: _Ahead | None = None) -> None:
        """Flush on behalf of the law, not of a caller."""
        try:
            await self._flush(ahead=ahead)
        except Problem:
            raise
        # Neither the disk nor a rule: the entries themselves cannot be kept.
        except Exception as error:
            raise _Unwritable from error

    def _now(self) -> int:
        assert self.memory is not None
        return max(self._hands.clock.now_ms(), self.memory.last_at_ms, self._woken_at_ms)

    def _record(self, entry: e.Entry, run_id: str | None) -> None:
        """Decide that ``entry`` happens next; it becomes durable with the next flush."""
        assert self.memory is not None
        self._next_call = None
        before = self.state
        recorded = Recorded(
            session_id=self.session_id,
            offset=before.next_offset,
            at_ms=self._now(),
            run_id=run_id,
            entry=entry,
        )
        after = touched(before, recorded)
        self.memory.last_at_ms = recorded.at_ms
        self.memory.state = advanced(before, recorded, after)
        self._buffer.append(recorded)
        if after is not None:
            self._buffer.runs[after.run_id] = after

    async def _flush(self, *, also: Also | None = None, ahead: _Ahead | None = None) -> None:
        """Make the buffer durable in one commit, then let the rest of the house know.

        ``ahead`` tells which model call comes next: its request is written while the commit is under way.
        """
        assert self.memory is not None
        buffer = self._buffer
        if not buffer.entries:
            return
        transition = Transition(
            session_id=self.session_id,
            entries=tuple(buffer.entries),
            runs=tuple(buffer.runs.values()),
            session=self.memory.state,
        )
        work = partial(self._meanwhile, ahead) if ahead is not None or self._flight.endings.due else None
        try:
            await self._hands.journal.append(transition, also=also, meanwhile=work)
        except BaseException:
            self._next_call = None
            raise
        self._buffer = Buffer()
        self._rescuing = False
        self._mark_durable()
        buffer.settle(self.memory)
        self._hands.host.changed(self.memory.state)

    def _meanwhile(self, ahead: _Ahead | None) -> None:
        """Do what nobody has to wait for; the commit may still fail."""
        assert self.memory is not None
        self._flight.endings.begin()
        # Whatever is wrong with a request shows when its turn comes, where the run is told.
        with suppress(Exception):
            run, step = self.state.active, None if ahead is None else ahead()
            if run is not None and step is not None:
                call = self._hands.models.call(run, step, self._buffer.window(self.memory))
                self._hands.models.write(call)
                self._next_call = call

    def _first_call(self) -> CallModel | None:
        """What a run that has just begun does first, if that is a model call and nothing has to be relieved before."""
        run = self.state.active
        step = None if run is None else decide(run)
        if run is None or not isinstance(step, CallModel) or self._relief(run, step) is not None:
            return None
        return step

    def _refuse_waiting(self, error: BaseException) -> None:
        for command in self._inbox:
            if not command.done.done():
                command.done.set_exception(error if isinstance(error, Exception) else Draining())
        self._inbox.clear()
