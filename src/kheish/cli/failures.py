"""Exit codes, and the error line a command ends with."""

from __future__ import annotations

from enum import IntEnum
from typing import IO

import click

from kheish.cli.output import printable


class ExitCode(IntEnum):
    """What a shell script can branch on."""

    OK = 0
    LOCAL = 1  # something on this side, or an HTTP status without a code of its own
    REFUSED = 2  # HTTP 400 or 413; wrong usage of the command line
    UNREACHABLE = 3  # no connection, or it broke
    DENIED = 4  # HTTP 401 or 403
    NOT_FOUND = 5
    CONFLICT = 6
    TIMEOUT = 7  # HTTP 408, 429, 503 or 504; a request or a wait took too long
    UNREADABLE = 8  # the answer is not what this API promises
    RUN_NOT_COMPLETED = 9  # waited for a run that failed, was interrupted or cancelled
    WAITS_FOR_HUMAN = 10  # waited for a run that needs an approval or an answer


_BY_STATUS = {
    400: ExitCode.REFUSED,
    413: ExitCode.REFUSED,
    401: ExitCode.DENIED,
    403: ExitCode.DENIED,
    404: ExitCode.NOT_FOUND,
    409: ExitCode.CONFLICT,
    408: ExitCode.TIMEOUT,
    429: ExitCode.TIMEOUT,
    503: ExitCode.TIMEOUT,
    504: ExitCode.TIMEOUT,
}


class Failure(click.ClickException):
    """Ends the command: one line on standard error and an exit code."""

    def __init__(self, message: str, code: ExitCode = ExitCode.LOCAL) -> None:
        super().__init__(message)
        self.exit_code = code  # type: ignore[misc] # click fixes it per class; here it varies per failure

    def show(self, file: IO[str] | None = None) -> None:
        """Write the error line."""
        click.echo(f"error: {printable(self.message)}", file=file, err=file is None)


class Unreachable(Failure):
    """The daemon gave no answer: it may be restarting."""

    def __init__(self, message: str, code: ExitCode = ExitCode.UNREACHABLE) -> None:
        super().__init__(message, code)


class HttpFailure(Failure):
    """The daemon answered with an error status."""

    def __init__(self, *, status: int, code: str, detail: str) -> None:
        self.status = status
        self.code = code
        self.detail = detail
        named = f" ({code})" if code else ""
        super().__init__(f"HTTP {status}{named}: {detail}", _BY_STATUS.get(status, ExitCode.LOCAL))
