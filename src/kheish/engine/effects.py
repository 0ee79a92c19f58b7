"""perform: the only place with effects. One batch of tool calls here, one model call in `model_calls`."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from kheish.core.jsonvalue import JsonObject
from kheish.core.values import value_class
from kheish.engine.entries import OnInDoubt, Ruling, ToolFinished, ToolIntended
from kheish.engine.state import CallState, RunState
from kheish.tools.limits import ToolRuntimeLimits
from kheish.tools.protocol import OutputEmitted, Prepared, Replay, TodosWritten, ToolCall, ToolContext, ToolOutcome
from kheish.tools.runtime import BatchBudget, ToolRuntime

log = structlog.get_logger(__name__)

INTERRUPTED: JsonObject = {"error": "The call was stopped before it finished.", "interrupted": True}
IN_DOUBT: JsonObject = {
    "error": "The daemon restarted while this call ran; it may or may not have taken effect and was not repeated.",
    "interrupted": True,
    "reason": "daemon_restart",
}


@value_class(frozen=True, kw_only=True, slots=True)
class TurnBudget:
    """The limits of one assistant message's calls, fixed when its first call runs, and what is used of them."""

    turn: int
    limits: ToolRuntimeLimits
    budget: BatchBudget

    @classmethod
    def of(cls, turn: int, limits: ToolRuntimeLimits) -> TurnBudget:
        return cls(turn=turn, limits=limits, budget=BatchBudget(limits))


@dataclass(slots=True)
class _Slot:
    """One call of a batch: what runs, and what came of it."""

    state: CallState
    prepared: Prepared | None = None
    outcome: ToolOutcome | None = None


class ToolBatch:
    """Calls that run together: prepared, then recorded as intents by the caller, then run."""

    def __init__(self, tools: ToolRuntime, turn: TurnBudget, *, unexplained: tuple[CallState, ...] = ()) -> None:
        self._tools = tools
        self._turn = turn
        self._slots: list[_Slot] = []
        self.unexplained = unexplained
        """Calls in doubt to ask a human about. When there are any, nothing else of the batch was touched."""

    def add(self, slot: _Slot) -> None:
        self._slots.append(slot)

    @property
    def settled(self) -> bool:
        """Every outcome is known already: nothing needs to run."""
        return all(slot.outcome is not None for slot in self._slots)

    def intents(self) -> list[ToolIntended]:
        """What must be durable before `run`."""
        return [
            ToolIntended(
                call_id=slot.state.call.call_id,
                name=slot.state.call.name,
                input=slot.state.input,
                facts=slot.prepared.facts,
                attempt=slot.state.attempts + 1,
            )
            for slot in self._slots
            if slot.prepared is not None
        ]

    async def run(self) -> None:
        """Run what was prepared, at most `max_parallel_tools` at a time."""
        budget = self._turn.budget
        waiting = [slot for slot in self._slots if slot.prepared is not None]
        if len(waiting) == 1:
            await self._run_one(waiting[0], budget)
            return
        width = self._turn.limits.max_parallel_tools
        for start in range(0, len(waiting), width):
            async with asyncio.TaskGroup() as group:
                for slot in waiting[start : start + width]:
                    group.create_task(self._run_one(slot, budget))

    async def _run_one(self, slot: _Slot, budget: BatchBudget) -> None:
        assert slot.prepared is not None
        descriptor = self._tools.descriptor(slot.state.call.name)
        slot.outcome = await self._tools.execute(slot.prepared, descriptor, budget)

    async def abandon(self) -> None:
        """The intents were not recorded: undo every preparation."""
        for slot in self._slots:
            if slot.prepared is None:
                continue
            try:
                await slot.prepared.abandon()
            # Tool code may fail in ways of its own; the other preparations must be undone all the same.
            except Exception as error:
                log.error("tool.abandon_failed", tool=slot.state.call.name, exc_info=error)

    def results(self) -> list[ToolFinished]:
        """Outcomes in call order; what did not finish was stopped."""
        return [_finished(slot.state, slot.outcome) for slot in self._slots]


class ToolCaller:
    """Builds batches from decided calls."""

    def __init__(
        self,
        *,
        tools: ToolRuntime,
        context: Callable[[RunState], ToolContext],
        limits: Callable[[], ToolRuntimeLimits],
    ) -> None:
        self._tools = tools
        self._context = context
        self._limits = limits
        self._turns: dict[str, TurnBudget] = {}

    def forget(self, run_id: str) -> None:
        """The run is over."""
        self._turns.pop(run_id, None)

    def _turn(self, run: RunState) -> TurnBudget:
        known = self._turns.get(run.run_id)
        if known is None or known.turn != run.turn:
            known = self._turns[run.run_id] = TurnBudget.of(run.turn, self._limits())
        return known

    async def batch(self, run: RunState, calls: Sequence[CallState]) -> ToolBatch:
        """Get ``calls`` ready, in their order. What was denied, or cannot run again, has its outcome already."""
        context = self._context(run)
        looked = {state.call.call_id: await self._look(state, context) for state in calls if _must_not_repeat(state)}
        if run.accepted.on_in_doubt is OnInDoubt.ASK:
            unexplained = tuple(state for state in calls if looked.get(state.call.call_id, state) is None)
            if unexplained:
                return ToolBatch(self._tools, self._turn(run), unexplained=unexplained)
        batch = ToolBatch(self._tools, self._turn(run))
        try:
            for state in calls:
                if state.call.call_id in looked:
                    known = looked[state.call.call_id] or ToolOutcome(output=IN_DOUBT, is_error=True)
                    batch.add(_Slot(state=state, outcome=known))
                else:
                    batch.add(await self._slot(state, context))
        except BaseException:
            await batch.abandon()
            raise
        return batch

    async def clear_away(self, run: RunState) -> None:
        """The run ends with calls in doubt: what they left half-written goes, what they did is not asked any more."""
        for state in filter(_must_not_repeat, run.calls):
            await self._look(state, self._context(run))

    async def _slot(self, state: CallState, context: ToolContext) -> _Slot:
        if state.denied:
            return _Slot(state=state, outcome=ToolOutcome(output=_refusal(state), is_error=True))
        return _Slot(state=state, prepared=await self._tools.prepare(_tool_call(state, context), context))

    async def _look(self, state: CallState, context: ToolContext) -> ToolOutcome | None:
        """What a call in doubt did, if the world shows it."""
        assert state.intent is not None
        return await self._tools.settle(_tool_call(state, context), state.intent.facts, context)


def _must_not_repeat(state: CallState) -> bool:
    return state.in_doubt and state.decision is not None and state.decision.replay == Replay.NEVER


def _tool_call(state: CallState, context: ToolContext) -> ToolCall:
    call_id = state.call.call_id
    # Call ids are unique in their session; who gets the key may serve many sessions, and other daemons.
    key = hashlib.sha256(f"{context.session_id}\0{context.run_id}\0{call_id}".encode()).hexdigest()[:32]
    return ToolCall(id=call_id, name=state.call.name, input=state.input, idempotency_key=f"kheish-{key}")


def _refusal(state: CallState) -> JsonObject:
    decision = state.decision
    if decision is not None and decision.ruling is not Ruling.ASK and decision.refusal is not None:
        return decision.refusal
    reason = None if state.resolution is None else state.resolution.get("reason")
    if decision is not None and decision.approval is not None and decision.approval.get("in_doubt"):
        said = f" The operator said: {reason}" if reason else ""
        return {**IN_DOUBT, "error": f"{IN_DOUBT['error']}{said}", "tool": state.call.name, "denied": True}
    because = f": {reason}" if reason else ""
    return {"error": f"the operator denied this call{because}", "tool": state.call.name, "denied": True}


def _finished(state: CallState, outcome: ToolOutcome | None) -> ToolFinished:
    part = state.call
    if outcome is None:
        return ToolFinished(call_id=part.call_id, name=part.name, output=INTERRUPTED, is_error=True)
    return ToolFinished(
        call_id=part.call_id,
        name=part.name,
        output=outcome.output,
        is_error=outcome.is_error,
        context_updates=outcome.context_updates,
        effects=tuple(_effect(effect) for effect in outcome.effects),
    )


def _effect(effect: TodosWritten | OutputEmitted) -> JsonObject:
    match effect:
        case TodosWritten(todos=todos):
            return {"type": "todos", "todos": list(todos)}
        case OutputEmitted():
            return {
                "type": "output",
                "content": effect.content,
                "parts": list(effect.parts),
                "artifacts": list(effect.artifacts),
            }
