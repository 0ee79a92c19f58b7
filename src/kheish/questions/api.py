"""HTTP of structured questions: parse, call the service, return."""

from __future__ import annotations

from typing import Annotated

from starlette.responses import Response

from kheish.http.api import Router
from kheish.http.arguments import SERVICE, Derived, Query
from kheish.http.idempotency import agreed_key, header_key
from kheish.http.paging import Paging, paging
from kheish.http.problems import CHANGING, READING
from kheish.http.responses import json_response
from kheish.questions.models import CancelUserQuestion, PendingQuestionView, QuestionPage, ResolveUserQuestion
from kheish.questions.service import Questions
from kheish.runs.models import RunView
from kheish.sessions.models import SessionView
from kheish.sessions.service import Sessions

router = Router(tag="questions", prefix="/v1")

Service = Annotated[Questions, SERVICE]
Key = Annotated[str | None, Derived(header_key)]
Pages = Annotated[Paging, Derived(paging)]


@router.get(
    "/questions",
    response_model=list[PendingQuestionView] | QuestionPage,
    responses=READING,
    operation_id="list_questions",
)
async def list_questions(
    questions: Service, pages: Pages, session_id: Annotated[str | None, Query()] = None
) -> Response:
    """Every question that waits for an answer."""
    return json_response(await questions.list(pages, session_id=session_id))


@router.get(
    "/sessions/{session_id}/questions",
    response_model=list[PendingQuestionView] | QuestionPage,
    responses=READING,
    operation_id="list_session_questions",
)
async def list_session_questions(questions: Service, pages: Pages, session_id: str) -> Response:
    """The questions this session waits for."""
    return json_response(await questions.list_of_session(pages, session_id))


@router.post(
    "/sessions/{session_id}/questions",
    response_model=SessionView,
    responses=CHANGING,
    operation_id="answer_session_question",
)
async def answer_inline(
    questions: Service,
    sessions: Annotated[Sessions, SERVICE],
    session_id: str,
    body: ResolveUserQuestion,
    header: Key,
) -> Response:
    """Answer the active run's question and return when the run is over or waits again."""
    key = agreed_key(header, body.idempotency_key)
    await questions.answer_inline(session_id, body.resolution, key=key)
    return json_response(await sessions.view(session_id))


@router.post(
    "/runs/{run_id}/questions",
    status_code=202,
    response_model=RunView,
    responses=CHANGING,
    operation_id="answer_run_question",
)
async def answer_run(questions: Service, run_id: str, body: ResolveUserQuestion, header: Key) -> Response:
    """Answer or decline the run's question and return at once."""
    key = agreed_key(header, body.idempotency_key)
    return json_response(await questions.answer_run(run_id, body.resolution, key=key), 202)


@router.post(
    "/runs/{run_id}/questions/{request_id}/cancel",
    response_model=RunView,
    responses=CHANGING,
    operation_id="cancel_run_question",
)
async def cancel(
    questions: Service, run_id: str, request_id: str, header: Key, body: CancelUserQuestion | None = None
) -> Response:
    """End the run because nobody will answer this request."""
    asked = body or CancelUserQuestion()
    key = agreed_key(header, asked.idempotency_key)
    return json_response(await questions.cancel(run_id, request_id, justification=asked.justification, key=key))
