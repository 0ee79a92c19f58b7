"""HTTP of sessions: parse, call the service, return."""

from __future__ import annotations

from typing import Annotated

from pydantic import JsonValue
from starlette.responses import Response

from kheish.http.api import Router
from kheish.http.arguments import SERVICE, Derived, Query
from kheish.http.paging import Paging, paging
from kheish.http.problems import CHANGING, READING
from kheish.http.responses import json_response
from kheish.http.sse import STREAM_RESPONSE, Streams, event_cursor
from kheish.sessions.models import (
    CreateSession,
    EndSession,
    InterruptView,
    ReplyTargetsView,
    SessionEvents,
    SessionPage,
    SessionView,
    SessionViewSummary,
    SetCredentialScope,
    SetReplyTargets,
    SetRoutePolicy,
)
from kheish.sessions.service import Sessions
from kheish.store.feed import Feed

router = Router(tag="sessions", prefix="/v1/sessions")

Service = Annotated[Sessions, SERVICE]


@router.post("", status_code=201, response_model=SessionView, responses=CHANGING, operation_id="create_session")
async def create(sessions: Service, body: CreateSession) -> Response:
    """Open a session. An id that exists returns that session."""
    session_id = await sessions.create(body)
    return json_response(await sessions.view(session_id), 201)


@router.get("", response_model=list[SessionViewSummary] | SessionPage, responses=READING, operation_id="list_sessions")
async def list_sessions(
    sessions: Service,
    pages: Annotated[Paging, Derived(paging)],
    persona_id: Annotated[str | None, Query()] = None,
) -> Response:
    """Sessions by id."""
    return json_response(await sessions.list(pages, persona_id=persona_id))


@router.get("/{session_id}", response_model=SessionView, responses=READING, operation_id="get_session")
async def get(sessions: Service, session_id: str) -> Response:
    """One session with its snapshot and its newest outputs."""
    return json_response(await sessions.view(session_id))


@router.get("/{session_id}/events", response_model=SessionEvents, responses=READING, operation_id="get_session_events")
async def events(sessions: Service, session_id: str) -> Response:
    """The session's journal, outputs and run events."""
    return json_response(await sessions.events(session_id))


@router.get(
    "/{session_id}/permission-audits",
    response_model=list[dict[str, JsonValue]],
    responses=READING,
    operation_id="get_permission_audits",
)
async def permission_audits(sessions: Service, session_id: str) -> Response:
    """What was decided about each tool call, and by which rule and mode."""
    return json_response(await sessions.audits(session_id))


@router.get(
    "/{session_id}/stream",
    response_class=Response,
    responses={**READING, **STREAM_RESPONSE},
    operation_id="stream_session",
)
async def stream(
    sessions: Service,
    feed: Annotated[Feed, SERVICE],
    streams: Annotated[Streams, SERVICE],
    cursor: Annotated[int | None, Derived(event_cursor)],
    session_id: str,
) -> Response:
    """Server-sent events of one session."""
    await sessions.record(session_id)
    return streams.respond(feed.subscribe(cursor=cursor, session_id=session_id))


@router.post(
    "/{session_id}/interrupt", response_model=InterruptView, responses=CHANGING, operation_id="interrupt_session"
)
async def interrupt(sessions: Service, session_id: str) -> Response:
    """Stop the active run."""
    interrupted = await sessions.interrupt(session_id)
    return json_response({"interrupted": interrupted, "snapshot": await sessions.snapshot(session_id)})


@router.post("/{session_id}/end", response_model=SessionView, responses=CHANGING, operation_id="end_session")
async def end(sessions: Service, session_id: str, body: EndSession) -> Response:
    """Interrupt the active run and cancel the queued ones; the session stays usable."""
    await sessions.end(session_id, body.reason)
    return json_response(await sessions.view(session_id))


@router.post(
    "/{session_id}/route-policy", response_model=SessionView, responses=CHANGING, operation_id="set_route_policy"
)
@router.put(
    "/{session_id}/route-policy", response_model=SessionView, responses=CHANGING, operation_id="put_route_policy"
)
async def set_route_policy(sessions: Service, session_id: str, body: SetRoutePolicy) -> Response:
    """Replace the route and generation that later runs use; null clears it."""
    await sessions.set_route_policy(session_id, body.route_policy)
    return json_response(await sessions.view(session_id))


@router.delete(
    "/{session_id}/route-policy", response_model=SessionView, responses=CHANGING, operation_id="clear_route_policy"
)
async def clear_route_policy(sessions: Service, session_id: str) -> Response:
    """Go back to the daemon's default route."""
    await sessions.set_route_policy(session_id, None)
    return json_response(await sessions.view(session_id))


@router.post(
    "/{session_id}/credential-scope",
    response_model=SessionView,
    responses=CHANGING,
    operation_id="set_credential_scope",
)
@router.put(
    "/{session_id}/credential-scope",
    response_model=SessionView,
    responses=CHANGING,
    operation_id="put_credential_scope",
)
async def set_credential_scope(sessions: Service, session_id: str, body: SetCredentialScope) -> Response:
    """Replace which credentials the session may borrow, from its next model call on; null lifts it."""
    await sessions.set_credential_scope(session_id, body.credential_scope)
    return json_response(await sessions.view(session_id))


@router.delete(
    "/{session_id}/credential-scope",
    response_model=SessionView,
    responses=CHANGING,
    operation_id="clear_credential_scope",
)
async def clear_credential_scope(sessions: Service, session_id: str) -> Response:
    """Let the session borrow every credential."""
    await sessions.set_credential_scope(session_id, None)
    return json_response(await sessions.view(session_id))


@router.get(
    "/{session_id}/reply-targets",
    response_model=ReplyTargetsView,
    responses=READING,
    operation_id="get_reply_targets",
)
async def get_reply_targets(sessions: Service, session_id: str) -> Response:
    """Where runs deliver to by default."""
    return json_response(await sessions.reply_targets(session_id))


@router.post(
    "/{session_id}/reply-targets", response_model=SessionView, responses=CHANGING, operation_id="set_reply_targets"
)
@router.put(
    "/{session_id}/reply-targets", response_model=SessionView, responses=CHANGING, operation_id="put_reply_targets"
)
async def set_reply_targets(sessions: Service, session_id: str, body: SetReplyTargets) -> Response:
    """Replace where later runs deliver to by default."""
    await sessions.set_reply_targets(session_id, body.reply_targets)
    return json_response(await sessions.view(session_id))


@router.delete(
    "/{session_id}/reply-targets",
    response_model=SessionView,
    responses=CHANGING,
    operation_id="clear_reply_targets",
)
async def clear_reply_targets(sessions: Service, session_id: str) -> Response:
    """Deliver to nobody by default."""
    await sessions.set_reply_targets(session_id, ())
    return json_response(await sessions.view(session_id))
