"""The resources of the asynchronous client: the same names, awaited; lists and streams by `async for`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence

from kheish.sdk import decisions, flows, repeating, requests, streams
from kheish.sdk.async_handles import AsyncRunHandle, AsyncSessionHandle
from kheish.sdk.async_transport import AsyncTransport
from kheish.sdk.decisions import Answers
from kheish.sdk.jsonvalue import JsonObject, JsonValue
from kheish.sdk.requests import Input
from kheish.sdk.sse import Event
from kheish.sdk.types import (
    Explanation,
    ExternalAction,
    InterruptView,
    PendingApprovalView,
    PendingQuestionView,
    ReplyHandle,
    RunEventEntry,
    RuntimeView,
    RunView,
    SessionEvents,
    SessionView,
    SessionViewSummary,
    ToolLimits,
)
from kheish.sdk.values import GenerationOptions, OnInDoubt, OnRestart, ReplyTarget, Resolution, Route


class Resource:
    """A group of methods on one connection."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport


class Sessions(Resource):
    """Conversations and what their runs use by default."""

    async def create(
        self,
        session_id: str | None = None,
        *,
        thread_id: str | None = None,
        persona: str | None = None,
        route: Route | str | None = None,
        reply_targets: Sequence[ReplyTarget] = (),
    ) -> AsyncSessionHandle:
        """Open a session; one that exists is taken as it is.

        Raises:
            ConflictError: it exists with another persona.
        """
        flow = flows.create_session(
            self._transport.connection,
            session_id,
            thread_id=thread_id,
            persona=persona,
            route=route,
            reply_targets=tuple(reply_targets),
        )
        view = await self._transport.drive(flow)
        return self.handle(view.session_id)

    def handle(self, session_id: str) -> AsyncSessionHandle:
        """A handle; sends nothing."""
        return AsyncSessionHandle(self._transport, session_id)

    async def get(self, session_id: str) -> SessionView:
        return await self._transport.call(requests.get_session(session_id))

    def list(self, *, persona: str | None = None, limit: int | None = None) -> AsyncIterator[SessionViewSummary]:
        """All sessions by id, fetched as they are needed; ``limit`` ends it earlier."""
        return self._transport.pages(requests.list_sessions(persona), limit)

    async def events(self, session_id: str) -> SessionEvents:
        """The session's journal, outputs and run events."""
        return await self._transport.call(requests.session_events(session_id))

    def stream(
        self, session_id: str, cursor: int | None = None, *, opened: Callable[[], object] | None = None
    ) -> AsyncGenerator[Event, None]:
        """What happens in the session, without end; from now on unless ``cursor`` is given.

        ``opened`` is called whenever a connection stands: text that a model writes before that is not told.
        """
        return self._transport.changes(streams.session(session_id, cursor, opened))

    async def submit(
        self,
        session_id: str,
        prompt: str,
        *,
        route: Route | str | None = None,
        generation: GenerationOptions | None = None,
        metadata: JsonValue = None,
        idempotency_key: str | None = None,
        reply_targets: Sequence[ReplyTarget] = (),
        completion_requirements: Sequence[JsonObject] = (),
        source_plugin: str | None = None,
        source_kind: str | None = None,
        actor_id: str | None = None,
        on_restart: OnRestart | None = None,
        on_in_doubt: OnInDoubt | None = None,
    ) -> AsyncRunHandle:
        """Queue a run in a session that exists.

        Raises:
            NotFound: it does not.
        """
        given = Input(
            prompt=prompt,
            route=route,
            generation=generation,
            metadata=metadata,
            reply_targets=reply_targets,
            completion_requirements=completion_requirements,
            source_plugin=source_plugin,
            source_kind=source_kind,
            actor_id=actor_id,
            on_restart=on_restart,
            on_in_doubt=on_in_doubt,
        )
        run = await self._transport.drive(flows.submit(self._transport.connection, session_id, given, idempotency_key))
        return AsyncRunHandle(self._transport, run.run_id, run.session_id)

    async def input(
        self,
        session_id: str,
        prompt: str,
        *,
        route: Route | str | None = None,
        generation: GenerationOptions | None = None,
        metadata: JsonValue = None,
        on_restart: OnRestart | None = None,
        on_in_doubt: OnInDoubt | None = None,
        timeout: float = flows.INLINE_TIMEOUT_SECONDS,
    ) -> SessionView:
        """Run in an idle session and return when the run is done or waits for a human.

        Raises:
            ConflictError: the session is busy (`sessions/session_busy`); submit a run instead.
        """
        given = Input(
            prompt=prompt,
            route=route,
            generation=generation,
            metadata=metadata,
            on_restart=on_restart,
            on_in_doubt=on_in_doubt,
        )
        return await self._transport.call(requests.run_input(session_id, given, timeout))

    async def interrupt(self, session_id: str) -> InterruptView:
        """Stop the active run."""
        return await self._transport.call(requests.interrupt_session(session_id))

    async def end(self, session_id: str, reason: str | None = None) -> SessionView:
        """Stop the active run and cancel the queued ones; the session stays usable."""
        return await self._transport.call(requests.end_session(session_id, reason))

    async def set_route_policy(
        self, session_id: str, route: Route | str | None = None, *, generation: GenerationOptions | None = None
    ) -> SessionView:
        """Replace the route and generation settings of later runs."""
        return await self._transport.call(requests.set_route_policy(session_id, route, generation))

    async def clear_route_policy(self, session_id: str) -> SessionView:
        """Go back to the daemon's default route."""
        return await self._transport.call(requests.clear_route_policy(session_id))

    async def reply_targets(self, session_id: str) -> tuple[ReplyHandle, ...]:
        """Where later runs deliver to by default."""
        view = await self._transport.call(requests.get_reply_targets(session_id))
        return view.reply_targets

    async def set_reply_targets(self, session_id: str, reply_targets: Sequence[ReplyTarget]) -> SessionView:
        """Replace where later runs deliver to by default."""
        return await self._transport.call(requests.set_reply_targets(session_id, reply_targets))

    async def clear_reply_targets(self, session_id: str) -> SessionView:
        """Deliver to nobody by default."""
        return await self._transport.call(requests.clear_reply_targets(session_id))


class Runs(Resource):
    """Executions, of any session."""

    def handle(self, run_id: str) -> AsyncRunHandle:
        """A handle, to wait for or stream a run by its id; sends nothing."""
        return AsyncRunHandle(self._transport, run_id)

    async def get(self, run_id: str) -> RunView:
        return await self._transport.call(requests.get_run(run_id))

    def list(
        self, *, session_id: str | None = None, order: str = "asc", limit: int | None = None
    ) -> AsyncIterator[RunView]:
        """All runs by submission, fetched as they are needed; ``order`` is asc or desc, ``limit`` ends it earlier."""
        return self._transport.pages(requests.list_runs(session_id, order), limit)

    async def newest(
        self, limit: int = 50, *, session_id: str | None = None, priority_active: bool = False
    ) -> tuple[RunView, ...]:
        """The newest runs, oldest of them first; with ``priority_active`` live ones before those that are over."""
        return await self._transport.call(requests.newest_runs(limit, session_id, priority_active))

    async def external_actions(self, run_id: str) -> tuple[ExternalAction, ...]:
        """The signed records of what the run did outside of the daemon; the daemon has verified them.

        Raises:
            ServerError: they are not as they were signed (`audit/external_actions_damaged`).
        """
        return await self._transport.call(requests.external_actions(run_id))

    async def events(self, run_id: str) -> tuple[RunEventEntry, ...]:
        """What happened to the run so far."""
        return await self._transport.call(requests.run_events(run_id))

    def stream(self, run_id: str, cursor: int | None = 0) -> AsyncGenerator[Event, None]:
        """The run's events until it is over, from its beginning unless ``cursor`` says otherwise."""
        return self.handle(run_id).stream(cursor)

    async def cancel(self, run_id: str) -> RunView:
        """Stop the run. One that is over is returned as it is."""
        return await self._transport.call(requests.cancel_run(run_id))


class Approvals(Resource):
    """Tool calls that wait for a permission."""

    def list(self, *, session_id: str | None = None, limit: int | None = None) -> AsyncIterator[PendingApprovalView]:
        """Every pending request, fetched as they are needed."""
        return self._transport.pages(decisions.list_approvals(session_id), limit)

    async def resolve(
        self, run_id: str, resolutions: Sequence[Resolution], *, idempotency_key: str | None = None
    ) -> RunView:
        """Decide on requests of one run: all of them are taken, or none."""
        key = repeating.chosen_key(idempotency_key)
        return await self._transport.call(decisions.resolve_approvals(run_id, resolutions, key))

    async def resolve_session(
        self, session_id: str, resolutions: Sequence[Resolution], *, idempotency_key: str | None = None
    ) -> RunView:
        """Decide on requests of the run the session waits for."""
        key = repeating.chosen_key(idempotency_key)
        return await self._transport.call(decisions.resolve_session_approvals(session_id, resolutions, key))


class Questions(Resource):
    """Questions the agent wants answered."""

    def list(self, *, session_id: str | None = None, limit: int | None = None) -> AsyncIterator[PendingQuestionView]:
        """Every pending request, fetched as they are needed."""
        return self._transport.pages(decisions.list_questions(session_id), limit)

    async def resolve(
        self,
        run_id: str,
        request_id: str,
        answers: Answers,
        *,
        justification: str | None = None,
        idempotency_key: str | None = None,
    ) -> RunView:
        """Answer every question of the request, by question id."""
        resolution = decisions.answered(request_id, answers, justification)
        key = repeating.chosen_key(idempotency_key)
        return await self._transport.call(decisions.resolve_question(run_id, resolution, key))

    async def decline(
        self,
        run_id: str,
        request_id: str,
        *,
        justification: str | None = None,
        idempotency_key: str | None = None,
    ) -> RunView:
        """Refuse to answer; the run goes on and the model is told."""
        resolution = decisions.declined(request_id, justification)
        key = repeating.chosen_key(idempotency_key)
        return await self._transport.call(decisions.resolve_question(run_id, resolution, key))

    async def cancel(
        self,
        run_id: str,
        request_id: str,
        *,
        justification: str | None = None,
        idempotency_key: str | None = None,
    ) -> RunView:
        """Drop the question and with it the run."""
        key = repeating.chosen_key(idempotency_key)
        return await self._transport.call(decisions.cancel_question(run_id, request_id, justification, key))


class Runtime(Resource):
    """The daemon itself."""

    async def status(self) -> JsonObject:
        """The status snapshot."""
        return await self._transport.call(requests.get_status())

    async def capabilities(self) -> JsonObject:
        """What this daemon can do."""
        return await self._transport.call(requests.get_capabilities())

    async def view(self) -> RuntimeView:
        """Routes and settings in force."""
        return await self._transport.call(requests.get_runtime())

    async def set_model(
        self, model: str, *, route: str | None = None, expected_revision: int | None = None
    ) -> RuntimeView:
        """Change the default model, and with ``route`` (an id) the default route."""
        return await self._transport.call(requests.set_model(model, route, expected_revision))

    async def set_permission_mode(self, mode: str, *, expected_revision: int | None = None) -> RuntimeView:
        """Change how tool calls are permitted."""
        return await self._transport.call(requests.set_permission_mode(mode, expected_revision))

    async def check_permission(
        self,
        tool_name: str,
        tool_input: JsonObject | None = None,
        *,
        session_id: str | None = None,
        tool_call_id: str | None = None,
        mode: str | None = None,
    ) -> Explanation:
        """What would be decided about a tool call, and why. Nothing is executed."""
        return await self._transport.call(
            requests.check_permission(tool_name, tool_input or {}, session_id, tool_call_id, mode)
        )

    async def tool_limits(self) -> ToolLimits:
        """The limits tools run under."""
        return await self._transport.call(requests.get_tool_limits())

    async def set_tool_limits(self, limits: JsonObject, *, expected_revision: int | None = None) -> RuntimeView:
        """Replace the limits tools run under."""
        return await self._transport.call(requests.set_tool_limits(limits, expected_revision))


class Events(Resource):
    """Everything that happens in the daemon."""

    def stream(
        self, cursor: int | None = None, *, session_id: str | None = None, run_id: str | None = None
    ) -> AsyncGenerator[Event, None]:
        """Events without end; from now on unless ``cursor`` is given (0: everything still kept)."""
        return self._transport.changes(streams.everything(cursor, session_id, run_id))


class Raw(Resource):
    """Endpoints that have no method of their own."""

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, JsonValue] | None = None,
        json: JsonValue = None,
        idempotency_key: str | None = None,
        timeout: float | None = None,
    ) -> JsonValue:
        """Send a request and return its JSON (text when the answer is not JSON, None when it is empty).

        ``path`` begins with a slash and is sent as it is: encode ids yourself.
        """
        return await self._transport.call(repeating.raw_call(method, path, params, json, idempotency_key, timeout))
