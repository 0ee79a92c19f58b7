"""Kheish: a daemon that runs agents durably. This package exports its Python client.

Names are imported when they are first used: `import kheish` alone costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kheish.sdk.async_client import AsyncKheish
    from kheish.sdk.async_handles import AsyncBlockedView, AsyncRunHandle, AsyncSessionHandle
    from kheish.sdk.client import Kheish
    from kheish.sdk.errors import (
        ApiError,
        AuthError,
        BadRequest,
        ConflictError,
        ConnectionFailed,
        InvalidArgument,
        KheishError,
        NotFound,
        PermissionDenied,
        RateLimited,
        RequestTimeout,
        RunFailed,
        ServerError,
        StreamBroken,
        UnexpectedResponse,
        WaitTimeout,
    )
    from kheish.sdk.handles import BlockedView, RunHandle, SessionHandle
    from kheish.sdk.results import Result
    from kheish.sdk.sse import Event
    from kheish.sdk.types import (
        ApprovalRequest,
        OutputRecord,
        PendingApprovalView,
        PendingQuestionView,
        Question,
        QuestionOption,
        RunEventEntry,
        RunView,
        SessionView,
        SessionViewSummary,
        UserQuestionRequest,
    )
    from kheish.sdk.values import Answer, GenerationOptions, ReplyTarget, Resolution, Route

_HOMES = {
    "async_client": ("AsyncKheish",),
    "async_handles": ("AsyncBlockedView", "AsyncRunHandle", "AsyncSessionHandle"),
    "client": ("Kheish",),
    "errors": (
        "ApiError",
        "AuthError",
        "BadRequest",
        "ConflictError",
        "ConnectionFailed",
        "InvalidArgument",
        "KheishError",
        "NotFound",
        "PermissionDenied",
        "RateLimited",
        "RequestTimeout",
        "RunFailed",
        "ServerError",
        "StreamBroken",
        "UnexpectedResponse",
        "WaitTimeout",
    ),
    "handles": ("BlockedView", "RunHandle", "SessionHandle"),
    "results": ("Result",),
    "sse": ("Event",),
    "types": (
        "ApprovalRequest",
        "OutputRecord",
        "PendingApprovalView",
        "PendingQuestionView",
        "Question",
        "QuestionOption",
        "RunEventEntry",
        "RunView",
        "SessionView",
        "SessionViewSummary",
        "UserQuestionRequest",
    ),
    "values": ("Answer", "GenerationOptions", "ReplyTarget", "Resolution", "Route"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Answer",
    "ApiError",
    "ApprovalRequest",
    "AsyncBlockedView",
    "AsyncKheish",
    "AsyncRunHandle",
    "AsyncSessionHandle",
    "AuthError",
    "BadRequest",
    "BlockedView",
    "ConflictError",
    "ConnectionFailed",
    "Event",
    "GenerationOptions",
    "InvalidArgument",
    "Kheish",
    "KheishError",
    "NotFound",
    "OutputRecord",
    "PendingApprovalView",
    "PendingQuestionView",
    "PermissionDenied",
    "Question",
    "QuestionOption",
    "RateLimited",
    "ReplyTarget",
    "RequestTimeout",
    "Resolution",
    "Result",
    "Route",
    "RunEventEntry",
    "RunFailed",
    "RunHandle",
    "RunView",
    "ServerError",
    "SessionHandle",
    "SessionView",
    "SessionViewSummary",
    "StreamBroken",
    "UnexpectedResponse",
    "UserQuestionRequest",
    "WaitTimeout",
]


def __getattr__(name: str) -> object:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'kheish' has no attribute {name!r}")
    value: object = getattr(import_module(f"kheish.sdk.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
