"""Handles on one run, one session, one waiting run."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from kheish.sdk import decisions, flows, requests
from kheish.sdk.decisions import Answers
from kheish.sdk.jsonvalue import JsonObject, JsonValue
from kheish.sdk.repeating import new_key
from kheish.sdk.requests import Input
from kheish.sdk.results import Result, result_of
from kheish.sdk.sse import Event
from kheish.sdk.transport import Transport
from kheish.sdk.types import RunView, SessionView
from kheish.sdk.values import GenerationOptions, OnInDoubt, OnRestart, ReplyTarget, Resolution, Route


class RunHandle:
    """A run by its id. Making one sends nothing."""

    def __init__(self, transport: Transport, run_id: str, session_id: str | None = None) -> None:
        self._transport = transport
        self.run_id = run_id
        self.session_id = session_id
        """None for a handle made from an id, until the run was read."""

    def __repr__(self) -> str:
        return f"RunHandle({self.run_id!r})"

    def get(self) -> RunView:
        """The run as it is now."""
        run = self._transport.call(requests.get_run(self.run_id))
        self.session_id = run.session_id
        return run

    def wait(self, timeout: float | None = None, raise_on_failure: bool = False) -> Result:
        """Wait until the run is over, also while it waits for a human.

        Raises:
            WaitTimeout: ``timeout`` seconds are over; the run goes on.
            RunFailed: it failed, was interrupted or cancelled, and ``raise_on_failure`` is set.
        """
        run = self._transport.drive(flows.wait(self._transport.connection, self.run_id, timeout))
        self.session_id = run.session_id
        return result_of(run, raise_on_failure=raise_on_failure)

    def wait_until_blocked(self, timeout: float | None = None) -> BlockedView:
        """Wait until the run waits for a human or is over.

        Raises:
            WaitTimeout: ``timeout`` seconds are over; the run goes on.
        """
        flow = flows.wait(self._transport.connection, self.run_id, timeout, until_blocked=True)
        return BlockedView(self._transport, self._transport.drive(flow))

    def stream(self, cursor: int | None = 0) -> Generator[Event, None, None]:
        """The run's events until it is over, from its beginning unless ``cursor`` says otherwise.

        After a `stream_gap` follows a `run_updated` with the run as it is.
        """
        return self._transport.run_events(self.run_id, cursor)

    def stream_text(self) -> Generator[str, None, None]:
        """The model's text as it is written. What a slow reader missed comes at the end."""
        return self._transport.run_text(self.run_id)

    def cancel(self) -> RunView:
        """Stop the run. One that is over is returned as it is."""
        return self._transport.call(requests.cancel_run(self.run_id))


class BlockedView:
    """A run that waits for a human, or is over."""

    def __init__(self, transport: Transport, run: RunView) -> None:
        self._transport = transport
        self.run = run
        """The run when it was looked at."""

    def __repr__(self) -> str:
        return f"BlockedView({self.run.run_id!r}, {self.run.status!r})"

    @property
    def requires_approval(self) -> bool:
        return self.run.status == "waiting_for_approval"

    @property
    def requires_question(self) -> bool:
        return self.run.status == "waiting_for_user_question"

    def get(self) -> RunView:
        """The run as it is now, with what it waits for."""
        return self._transport.call(requests.get_run(self.run.run_id))

    def approve_all(self, justification: str | None = None) -> RunView:
        """Allow every request of the wave in ``run``. Several waves in one run are normal."""
        return self._decide(decisions.decide_all(self.run, allow=True, justification=justification, reason=None))

    def deny_all(self, reason: str | None = None, justification: str | None = None) -> RunView:
        """Deny every request of the wave in ``run``; the model reads the reason."""
        return self._decide(decisions.decide_all(self.run, allow=False, justification=justification, reason=reason))

    def answer(self, answers: Answers, justification: str | None = None) -> RunView:
        """Answer by question id: option ids, a text, or an Answer with both."""
        view = self.run
        for request_id, given in decisions.by_request(self.run, answers).items():
            resolution = decisions.answered(request_id, given, justification)
            call = decisions.resolve_question(self.run.run_id, resolution, new_key())
            view = self._transport.call(call)
        return view

    def decline(self, justification: str | None = None) -> RunView:
        """Refuse to answer; the model is told."""
        view = self.run
        for request in self.run.pending_questions:
            resolution = decisions.declined(request.id, justification)
            view = self._transport.call(decisions.resolve_question(self.run.run_id, resolution, new_key()))
        return view

    def _decide(self, resolutions: Sequence[Resolution]) -> RunView:
        return self._transport.call(decisions.resolve_approvals(self.run.run_id, resolutions, new_key()))


class Responses:
    """Submits inputs."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self,
        *,
        prompt: str,
        session: str | None = None,
        route: Route | str | None = None,
        generation: GenerationOptions | None = None,
        metadata: JsonValue = None,
        idempotency_key: str | None = None,
        reply_targets: Sequence[ReplyTarget] = (),
        completion_requirements: Sequence[JsonObject] = (),
        binding_keys: Sequence[str] = (),
        source_plugin: str | None = None,
        source_kind: str | None = None,
        actor_id: str | None = None,
        on_restart: OnRestart | None = None,
        on_in_doubt: OnInDoubt | None = None,
    ) -> RunHandle:
        """Queue a run and return at once; a session that does not exist is opened first.

        One call is one run: the request is repeated after lost connections with one idempotency key, yours or a new
        one.
        """
        given = Input(
            prompt=prompt,
            route=route,
            generation=generation,
            metadata=metadata,
            reply_targets=reply_targets,
            completion_requirements=completion_requirements,
            binding_keys=binding_keys,
            source_plugin=source_plugin,
            source_kind=source_kind,
            actor_id=actor_id,
            on_restart=on_restart,
            on_in_doubt=on_in_doubt,
        )
        flow = flows.create_response(self._transport.connection, session, given, idempotency_key)
        run = self._transport.drive(flow)
        return RunHandle(self._transport, run.run_id, run.session_id)


class SessionResponses:
    """Submits inputs to one session."""

    def __init__(self, transport: Transport, session_id: str) -> None:
        self._responses = Responses(transport)
        self._session_id = session_id

    def create(
        self,
        *,
        prompt: str,
        route: Route | str | None = None,
        generation: GenerationOptions | None = None,
        metadata: JsonValue = None,
        idempotency_key: str | None = None,
        on_restart: OnRestart | None = None,
        on_in_doubt: OnInDoubt | None = None,
    ) -> RunHandle:
        """Queue a run in this session and return at once."""
        return self._responses.create(
            session=self._session_id,
            prompt=prompt,
            route=route,
            generation=generation,
            metadata=metadata,
            idempotency_key=idempotency_key,
            on_restart=on_restart,
            on_in_doubt=on_in_doubt,
        )


class SessionHandle:
    """A session by its id. Making one sends nothing."""

    def __init__(self, transport: Transport, session_id: str) -> None:
        self._transport = transport
        self.session_id = session_id
        self.responses = SessionResponses(transport, session_id)

    def __repr__(self) -> str:
        return f"SessionHandle({self.session_id!r})"

    def get(self) -> SessionView:
        """The session as it is now."""
        return self._transport.call(requests.get_session(self.session_id))

    def interrupt(self) -> bool:
        """Stop the active run; False when there is none."""
        return self._transport.call(requests.interrupt_session(self.session_id)).interrupted

    def end(self, reason: str | None = None) -> SessionView:
        """Stop the active run and cancel the queued ones; the session stays usable."""
        return self._transport.call(requests.end_session(self.session_id, reason))
