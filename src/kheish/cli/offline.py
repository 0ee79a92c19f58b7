"""Commands that work on files instead of asking a daemon: their failures as exit codes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from kheish.cli.failures import ExitCode, Failure

T = TypeVar("T")

_BY_STATUS = {400: ExitCode.REFUSED, 404: ExitCode.NOT_FOUND, 409: ExitCode.CONFLICT}


def locally(work: Callable[[], T]) -> T:
    """Run offline work.

    Raises:
        Failure: it hit a problem; the exit code is what the daemon's answer would have given.
    """
    from kheish.core.problems import Problem

    try:
        return work()
    except Problem as problem:
        raise Failure(problem.detail, _BY_STATUS.get(problem.status, ExitCode.LOCAL)) from None
