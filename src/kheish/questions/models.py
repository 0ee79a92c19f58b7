"""Wire types of structured questions."""

from __future__ import annotations

from pydantic import Field

from kheish.http.requests import Asked
from kheish.sessions.models import Pagination, UserQuestionRequest, View


class Answer(Asked):
    """One question's answer: chosen options, a text, or both."""

    question_id: str
    selected_option_ids: list[str] = Field(default_factory=list)
    freeform_answer: str | None = None


class UserQuestionResolution(Asked):
    """All answers to one request, or a decline."""

    request_id: str
    answers: list[Answer] = Field(default_factory=list)
    declined: bool = False
    justification: str | None = None


class ResolveUserQuestion(Asked):
    idempotency_key: str | None = None
    resolution: UserQuestionResolution


class CancelUserQuestion(Asked):
    idempotency_key: str | None = None
    justification: str | None = None


class PendingQuestionView(View):
    session_id: str
    agent_id: str
    run_id: str | None = None
    run_kind: str | None = None
    request: UserQuestionRequest


class QuestionPage(View):
    items: list[PendingQuestionView]
    pagination: Pagination
