"""The commands' side of the SDK: one call, its failures as exit codes, its answer as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import update_wrapper
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar
from urllib.parse import quote

import click

from kheish.cli.failures import ExitCode, Failure, HttpFailure, Unreachable
from kheish.cli.global_options import GlobalOptions, global_options
from kheish.cli.output import Form, JsonObject, JsonValue, print_json

if TYPE_CHECKING:
    from kheish.sdk.client import Kheish

P = ParamSpec("P")
R = TypeVar("R")

REQUEST_TIMEOUT_SECONDS = 60.0
Params = Mapping[str, "str | int | bool | None"]
"""Query parameters; None leaves one out."""


def path_of(*segments: str) -> str:
    """The path of an endpoint below /v1; every segment is percent-encoded, so an id may hold anything."""
    return "/v1/" + "/".join(_segment(segment) for segment in segments)


def _segment(text: str) -> str:
    # "." and ".." would be folded into the path around them.
    return text.replace(".", "%2E") if text in (".", "..") else quote(text, safe="")


class DaemonClient:
    """The daemon as commands see it; connects when the first call is made."""

    def __init__(self, options: GlobalOptions) -> None:
        self._options = options
        self._client: Kheish | None = None

    @property
    def form(self) -> Form:
        """How answers are printed."""
        return self._options.output

    @property
    def sdk(self) -> Kheish:
        """The SDK client.

        Raises:
            Failure: the address or the token is unusable.
        """
        if self._client is None:
            # Late: the SDK and its transport take longer to import than `--help` may take.
            from kheish.sdk.client import Kheish

            token = self._options.token()
            with translated():
                self._client = Kheish(
                    self._options.base_url,
                    token,
                    timeout=REQUEST_TIMEOUT_SECONDS,
                    # A script branches on the first failure; only waits and streams bear a restart.
                    max_retries=0,
                )
        return self._client

    def call(
        self,
        method: str,
        *segments: str,
        params: Params | None = None,
        body: JsonObject | None = None,
        key: str | None = None,
    ) -> JsonValue:
        """Make one request and return the parsed answer; ``key`` goes into `Idempotency-Key`.

        Raises:
            HttpFailure: the daemon refused.
            Unreachable: no answer came.
            Failure: the answer is unreadable.
        """
        given: JsonObject = {name: value for name, value in (params or {}).items() if value is not None}
        client = self.sdk
        with translated():
            return client.raw.request(method, path_of(*segments), params=given, json=body, idempotency_key=key)

    def call_object(
        self, method: str, *segments: str, body: JsonObject | None = None, key: str | None = None
    ) -> JsonObject:
        """Like `call`, for endpoints that answer with an object."""
        return as_object(self.call(method, *segments, body=body, key=key))

    def show(
        self,
        method: str,
        *segments: str,
        params: Params | None = None,
        body: JsonObject | None = None,
        key: str | None = None,
    ) -> None:
        """Make one request and print its answer."""
        self.print(self.call(method, *segments, params=params, body=body, key=key))

    def print(self, value: JsonValue) -> None:
        """Print one value as the user asked for it."""
        print_json(value, self.form)

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._client is not None:
            self._client.close()


@contextmanager
def translated() -> Iterator[None]:
    """Turn what the SDK raises into an error line and an exit code."""
    from kheish.sdk import errors

    try:
        yield
    except errors.ApiError as error:
        raise HttpFailure(status=error.status, code=error.code, detail=error.detail) from error
    except errors.ConnectionFailed as error:
        raise Unreachable(str(error), _unreachable_code(error)) from error
    except errors.UnexpectedResponse as error:
        raise Failure(str(error), ExitCode.UNREADABLE) from error
    except errors.StreamBroken as error:
        raise Failure(str(error), ExitCode.UNREADABLE) from error
    except errors.KheishError as error:
        raise Failure(str(error)) from error


def _unreachable_code(error: Exception) -> ExitCode:
    return ExitCode.TIMEOUT if isinstance(error, TimeoutError) else ExitCode.UNREACHABLE


def as_object(value: JsonValue) -> JsonObject:
    """``value`` as the object the endpoint promises.

    Raises:
        Failure: it is none.
    """
    if not isinstance(value, dict):
        raise Failure("the daemon answered with something else than an object", ExitCode.UNREADABLE)
    return value


def as_rows(value: JsonValue) -> list[JsonObject]:
    """``value`` as the list of objects the endpoint promises.

    Raises:
        Failure: it is none.
    """
    if not isinstance(value, list):
        raise Failure("the daemon answered with something else than a list", ExitCode.UNREADABLE)
    return [as_object(row) for row in value]


def pass_client(command: Callable[Concatenate[DaemonClient, P], R]) -> Callable[P, R]:
    """Call ``command`` with the client of this invocation; it is closed when the command is over."""

    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        context = click.get_current_context()
        client = DaemonClient(global_options(context))
        context.call_on_close(client.close)
        return command(client, *args, **kwargs)

    return update_wrapper(run, command)
