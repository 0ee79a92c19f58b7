"""The place of access control: every request but the probes passes here before anything reads it."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Protocol
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kheish.core.problems import Problem
from kheish.core.values import value_class
from kheish.http.cors import CorsPolicy, allowing
from kheish.http.headers import first_headers
from kheish.http.problems import render

PUBLIC_PATHS = frozenset({"/healthz", "/readyz"})
"""Probes: they tell nothing, and an orchestrator may call them by any name."""


class HostRefused(Problem):
    """The Host header names another machine; without tokens the daemon answers to loopback names only."""

    domain, code, status = "auth", "host_not_allowed", 403


class OriginRefused(Problem):
    """A web page of another origin sent this request."""

    domain, code, status = "cors", "origin_not_allowed", 403


@value_class(frozen=True, kw_only=True, slots=True)
class Call:
    """What access is decided on."""

    method: str
    path: str
    """Raw: percent-encoded as it came, without the query."""
    authorization: str | None
    origin: str | None
    remote_addr: str | None


@value_class(frozen=True, kw_only=True, slots=True)
class Refusal:
    """The answer to a call that may not pass."""

    problem: Problem
    headers: tuple[tuple[str, str], ...] = ()


class Authority(Protocol):
    """Decides about calls; implemented by the auth room."""

    @property
    def enabled(self) -> bool:
        """Whether tokens are asked for."""
        ...

    @property
    def cors(self) -> CorsPolicy: ...

    def check(self, call: Call) -> Refusal | None:
        """None lets the call pass."""
        ...

    def origin_refused(self, call: Call) -> None:
        """Note that a page of another origin tried."""
        ...


class Gate:
    """Order: a page's origin, then the token; a preflight carries no token."""

    def __init__(self, app: ASGIApp, authority: Authority) -> None:
        self._app = app
        self._authority = authority

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in PUBLIC_PATHS:
            await self._app(scope, receive, send)
            return
        call = _call(scope)
        refusal = self._host_refusal(scope) or self._origin_refusal(call)
        answered = send if refusal is not None or call.origin is None else _with_cors(send, call.origin)
        if refusal is None and call.method == "OPTIONS":
            await Response(status_code=204)(scope, receive, answered)
            return
        refusal = refusal or self._authority.check(call)
        if refusal is not None:
            await render(refusal.problem, dict(refusal.headers))(scope, receive, answered)
            return
        await self._app(scope, receive, answered)

    def _host_refusal(self, scope: Scope) -> Refusal | None:
        # A page that rebinds its own name to this machine has no token; without tokens only the name tells.
        if self._authority.enabled:
            return None
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if hosts and all(map(_is_loopback_host, hosts)):
            return None
        return Refusal(problem=HostRefused())

    def _origin_refusal(self, call: Call) -> Refusal | None:
        if call.origin is None or self._authority.cors.allows(call.origin):
            return None
        self._authority.origin_refused(call)
        return Refusal(problem=OriginRefused())


def _call(scope: Scope) -> Call:
    headers = first_headers(scope)
    authorization, origin = headers.get(b"authorization"), headers.get(b"origin")
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    client = scope.get("client")
    return Call(
        method=scope["method"],
        path=raw.partition(b"?")[0].decode("latin-1"),
        authorization=None if authorization is None else authorization.decode("latin-1"),
        origin=None if origin is None else origin.decode("latin-1"),
        remote_addr=None if client is None else str(client[0]),
    )


def _with_cors(send: Send, origin: str) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(allowing(origin))
        await send(message)

    return sending


_LONGEST_HOST = 300
"""Characters of a host's name with its port, and some more."""


def _is_loopback_host(host: str) -> bool:
    return len(host) <= _LONGEST_HOST and _names_loopback(host)


# Clients of an open daemon name few hosts, and each request names one.
@lru_cache(maxsize=64)
def _names_loopback(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        return False
    if name is None:
        return False
    name = name.rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
