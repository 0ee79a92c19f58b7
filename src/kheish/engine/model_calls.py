"""perform, the model's half: one attempt of a model call, streamed to whoever watches, and what to record of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

import structlog

from kheish.core.clock import Clock
from kheish.core.ids import IdSource
from kheish.core.messages import (
    FinishReason,
    Generation,
    Message,
    Part,
    TextPart,
    ToolCallPart,
    ToolSpec,
    Usage,
    user_text,
)
from kheish.core.problems import Problem
from kheish.core.values import changed, value_class
from kheish.engine.budgets import Allowance, BudgetExceeded
from kheish.engine.context import Transcript
from kheish.engine.decide import CallModel
from kheish.engine.entries import Compacted, CredentialUse, ModelFailed, ModelReplied, RouteRef
from kheish.engine.lending import Lender, Loan
from kheish.engine.ports import LiveEvents, Models
from kheish.engine.relief import MODEL_DRIVEN, SESSION_MEMORY, compaction
from kheish.engine.session_memory import SUMMARY_REQUEST
from kheish.engine.state import RunState
from kheish.engine.tokens import standing_tokens
from kheish.engine.window import WindowPolicy, window_policy
from kheish.providers.protocol import (
    Continuation,
    ErrorKind,
    ModelReply,
    ModelRequest,
    Provider,
    ProviderError,
    TextDelta,
)
from kheish.providers.structured_output import fault_in
from kheish.tools.runtime import ToolRuntime

log = structlog.get_logger(__name__)

STOPPED = "stopped"
UNAUTHORIZED = 401
INVALID_STRUCTURE = "structured_output_invalid"
_DELTA = "output_delta"


def unusable(run: RunState, reply: ModelReply) -> tuple[str, str] | None:
    """Return kind and message of what makes a whole reply a failed turn; None when nothing does."""
    wanted = run.generation.response_format
    if wanted.type != "structured_json" or reply.finish_reason in (FinishReason.MAX_TOKENS, FinishReason.BLOCKED):
        return None  # what was cut off is continued first, what was blocked has its own end
    if any(isinstance(part, ToolCallPart) for part in reply.parts):
        return None
    text = run.partial_text + "".join(part.text for part in reply.parts if isinstance(part, TextPart))
    fault = fault_in(text, wanted.schema)
    return (
        None if fault is None else (INVALID_STRUCTURE, f"the reply does not have the form that was asked for: {fault}")
    )


def _refused_before(run: RunState, step: CallModel) -> bool:
    """Whether an attempt of this very call was refused as unauthorised already."""
    last = run.last_failure
    return last is not None and (last.turn, last.kind) == (step.turn, ErrorKind.AUTH)


_NOTHING_USED = Usage()


def _failed(step: CallModel, loan: Loan, kind: str, message: str, usage: Usage = _NOTHING_USED) -> ModelFailed:
    turn, attempt = step.turn, step.attempt
    return ModelFailed(turn=turn, attempt=attempt, kind=kind, message=message, usage=usage, access=loan.use)


def stopped_call(run: RunState, use: CredentialUse) -> ModelFailed:
    """What is recorded of a call that a stop cut off: that it was made."""
    said = "the run was stopped while the model answered"
    return ModelFailed(turn=run.turn + 1, attempt=run.failed_attempts + 1, kind=STOPPED, message=said, access=use)


@value_class(frozen=True, slots=True)
class _Written:
    """A request, and its stream over the provider it was written for; it begins when it is asked for an item."""

    request: ModelRequest
    provider: Provider
    stream: AsyncGenerator[TextDelta | ModelReply, None]


@dataclass(slots=True)
class ModelCall:
    """One attempt of a model call, from its request to the end of its answer."""

    run: RunState
    step: CallModel
    messages: tuple[Message, ...]
    continuation: tuple[RouteRef, Continuation] | None
    loan: Loan
    written: _Written | None = None

    @property
    def use(self) -> CredentialUse | None:
        """What it borrowed."""
        return self.loan.use

    async def aclose(self) -> None:
        """See to the end of an answer whose reply is there."""
        if self.written is None:
            return
        try:
            await self.written.stream.aclose()
        # The reply is recorded, or about to be: nothing that goes wrong behind it may end its run.
        except Exception:
            log.exception("model_call.not_closed", run_id=self.run.run_id)


class ModelCaller:
    """Makes one attempt of a model call and says what to record."""

    def __init__(
        self,
        *,
        models: Models,
        tools: ToolRuntime,
        live: LiveEvents,
        clock: Clock,
        ids: IdSource,
        system: Callable[[RunState], tuple[str, ...]],
        allowance: Allowance | None = None,
        lender: Lender | None = None,
    ) -> None:
        self._models = models
        self._lender = lender
        self._allowance = allowance or Allowance()
        self._tools = tools
        self._live = live
        self._clock = clock
        self._ids = ids
        self._system = system
        self._standing: tuple[tuple[str, ...], tuple[ToolSpec, ...], int] | None = None

    def loan(self) -> Loan:
        """What one call will borrow."""
        return Loan(self._lender)

    def call(self, run: RunState, step: CallModel, window: Transcript) -> ModelCall:
        """Begin a call, of which nothing is written yet."""
        messages, continuation = window.messages(), window.continuation
        return ModelCall(run=run, step=step, messages=messages, continuation=continuation, loan=self.loan())

    def write(self, call: ModelCall) -> _Written:
        """Write its request, if it is not. Nothing is borrowed and nothing sent, so this may come early.

        Raises:
            ProviderError: the wire cannot say what is asked for.
            Problem: the route is gone.
        """
        provider = self._models.provider_for(call.run.route)
        # Somebody may have changed the route after an early writing.
        if call.written is None or call.written.provider is not provider:
            request = self._request(call)
            call.written = _Written(request, provider, provider.stream(request))
        return call.written

    async def perform(self, call: ModelCall) -> ModelReplied | ModelFailed:
        """Stream its reply; deltas go to the live feed. Whoever takes the reply closes the call."""
        run, step, loan = call.run, call.step, call.loan
        self._announce(run, step)
        try:
            spent = await self._allowance.require(run)
            written = self.write(call)
            await loan.take(run)
            reply = await self._stream(run, step, written)
        except ProviderError as error:
            return changed(self._failure(run, step, error), access=loan.use)
        except Problem as problem:
            return _failed(step, loan, problem.code, problem.detail)
        overdrawn = self._allowance.fault(run, spent, reply.usage)
        fault = unusable(run, reply) if overdrawn is None else (BudgetExceeded.code, overdrawn)
        if fault is not None:
            kind, message = fault
            return _failed(step, loan, kind, message, reply.usage)
        return ModelReplied(
            turn=step.turn,
            message_id=self._ids.new("msg"),
            parts=self._with_call_ids(reply),
            finish_reason=reply.finish_reason,
            usage=reply.usage,
            response_id=reply.response_id,
            access=loan.use,
        )

    def standing_tokens(self, run: RunState) -> int:
        """About what every request of the run carries beside its messages."""
        system, tools = self._system(run), self._tools.specs()
        known = self._standing
        if known is None or known[0] != system or known[1] is not tools:
            known = self._standing = (system, tools, standing_tokens(system, tools))
        return known[2]

    async def summarise(self, run: RunState, window: Transcript, loan: Loan) -> Compacted:
        """Have the model condense the window; where it cannot, the session's own facts do."""
        policy = window_policy(run.route, run.generation, run.max_output_tokens)
        turn = run.turn + 1
        self._trace(run, {"kind": "compaction", "phase": "summarising", "turn": turn, "model": run.route.model})
        reply = await self._summary(run, window, policy, loan)
        text = "" if reply is None else "".join(part.text for part in reply.parts if isinstance(part, TextPart))
        strategy = MODEL_DRIVEN if text.strip() else SESSION_MEMORY
        said, usage = text.strip(), Usage() if reply is None else reply.usage
        made = compaction(window, policy, turn=turn, strategy=strategy, text=said, usage=usage)
        if made is None:  # the facts alone would keep every message: they say less than a summary
            made = compaction(window, policy, turn=turn, strategy=strategy, text=said, usage=usage, least=True)
        assert made is not None
        return changed(made, access=loan.use)

    async def _summary(self, run: RunState, window: Transcript, policy: WindowPolicy, loan: Loan) -> ModelReply | None:
        generation = Generation(
            max_output_tokens=policy.summary_max,
            temperature=run.generation.temperature,
        )
        request = ModelRequest(
            model=run.route.model,
            system=self._system(run),
            messages=(*window.messages(), user_text(SUMMARY_REQUEST)),
            # Offered although none may be called: some providers refuse calls in the history without them.
            tools=self._tools.specs(),
            generation=generation,
            cache_key=run.session_id,
            before_send=loan.before_send,
        )
        final: ModelReply | None = None
        try:
            await self._allowance.require(run)
            provider = self._models.provider_for(run.route)
            await loan.take(run)
            async for item in provider.stream(request):
                if isinstance(item, ModelReply):
                    final = self._priced(run, request.model, item)
        except (ProviderError, Problem) as error:
            log.warning("compaction.no_summary", run_id=run.run_id, error=str(error))
        return final

    async def _stream(self, run: RunState, step: CallModel, written: _Written) -> ModelReply:
        publish, session_id, run_id = self._live.publish_live, run.session_id, run.run_id
        head = {"type": _DELTA, "run_id": run_id, "session_id": session_id, "turn": step.turn, "attempt": step.attempt}
        async for item in written.stream:
            if isinstance(item, ModelReply):
                return self._priced(run, written.request.model, item)
            data = {**head, "part": item.part, "text": item.text}
            publish(_DELTA, session_id=session_id, run_id=run_id, data=data)
        raise AssertionError(f"the {run.route.driver} adapter ended without a reply")

    def _priced(self, run: RunState, model: str, reply: ModelReply) -> ModelReply:
        usage = self._models.terms_for(run.route).priced(model, reply.usage)
        return reply if usage is reply.usage else changed(reply, usage=usage)

    def _request(self, call: ModelCall) -> ModelRequest:
        run, step = call.run, call.step
        generation = base = run.generation
        route, continues = call.continuation or (None, None)
        same = route is not None and (route.route_id, route.driver) == (run.route.route_id, run.route.driver)
        fallback = base.fallback_model if step.attempt - run.overflows > 1 else None
        if run.tool_choice or run.max_output_tokens:
            generation = changed(
                base,
                tool_choice=run.tool_choice or base.tool_choice,
                max_output_tokens=run.max_output_tokens or base.max_output_tokens,
            )
        return ModelRequest(
            model=fallback or run.route.model,
            system=self._system(run),
            messages=call.messages,
            tools=self._tools.specs(),
            generation=generation,
            cache_key=run.session_id,
            continues=continues if same else None,
            before_send=call.loan.before_send,
        )

    def _with_call_ids(self, reply: ModelReply) -> tuple[Part, ...]:
        parts: list[Part] = []
        for part in reply.parts:
            if not isinstance(part, ToolCallPart):
                parts.append(part)
            # Arguments cut off by the output ceiling are no call at all.
            elif part.invalid_input is None or reply.finish_reason is not FinishReason.MAX_TOKENS:
                parts.append(changed(part, call_id=self._ids.new("call")))
        return tuple(parts)

    def _failure(self, run: RunState, step: CallModel, error: ProviderError) -> ModelFailed:
        retry_at = None
        message = error.message
        # A refusal as too large is no failed attempt: what follows it is another request.
        retry = self._models.terms_for(run.route).retry
        if error.retryable and step.attempt - run.overflows < retry.attempts:
            wait = error.retry_after_ms
            if wait is None:
                wait = retry.wait_ms(step.attempt, f"{run.run_id}:{step.turn}")
            at_once = error.retry_max_output_tokens is not None
            # The session's time does not go back with the clock.
            retry_at = max(self._clock.now_ms(), run.updated_at_ms) + (0 if at_once else wait)
        elif error.status == UNAUTHORIZED and not _refused_before(run, step) and self._models.refresh(run.route):
            retry_at = max(self._clock.now_ms(), run.updated_at_ms)
        elif error.retryable:
            message = f"{message} (gave up after {step.attempt} attempts)"
        return ModelFailed(
            turn=step.turn,
            attempt=step.attempt,
            kind=error.kind.value,
            message=message,
            retry_at_ms=retry_at,
            max_output_tokens=error.retry_max_output_tokens,
        )

    def _announce(self, run: RunState, step: CallModel) -> None:
        if step.attempt > 1:
            told = {"run_id": run.run_id, "session_id": run.session_id, "turn": step.turn, "attempt": step.attempt}
            event: dict[str, object] = {"type": "output_reset", **told}
            self._live.publish_live("output_reset", session_id=run.session_id, run_id=run.run_id, data=event)
        started = {"kind": "model_started", "turn": step.turn, "attempt": step.attempt, "model": run.route.model}
        self._trace(run, started)

    def _trace(self, run: RunState, trace: dict[str, object]) -> None:
        identity = {"session_id": run.session_id, "agent_id": run.agent_id, "run_id": run.run_id}
        event: dict[str, object] = {"type": "trace", "trace": {**identity, "timestamp": self._clock.now_ms(), **trace}}
        self._live.publish_live("trace", session_id=run.session_id, run_id=run.run_id, data=event)
