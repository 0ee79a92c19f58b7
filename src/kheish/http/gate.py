"""The place of access control: every request but the probes passes here before anything reads it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kheish.core.problems import Problem
from kheish.http.cors import CorsPolicy, allowing
from kheish.http.problems import render

PUBLIC_PATHS = frozenset({"/healthz", "/readyz"})
"""Probes: they tell nothing, and an orchestrator may call them by any name."""


class HostRefused(Problem):
    """The Host header names another machine; without tokens the daemon answers to loopback names only."""

    domain, code, status = "auth", "host_not_allowed", 403


class OriginRefused(Problem):
    """A web page of another origin sent this request."""

    domain, code, status = "cors", "origin_not_allowed", 403


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """What access is decided on."""

    method: str
    path: str
    """Raw: percent-encoded as it came, without the query."""
    authorization: str | None
    origin: str | None
    remote_addr: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
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
        if scope["type"] != "http" or scope["path"] in PUBLIC_PATHS:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        call = _call(scope, headers)
        refusal = self._host_refusal(headers) or self._origin_refusal(call)
        answered = send if refusal is not None or call.origin is None else _with_cors(send, call.origin)
        if refusal is None and call.method == "OPTIONS":
            await Response(status_code=204)(scope, receive, answered)
            return
        refusal = refusal or self._authority.check(call)
        if refusal is not None:
            await render(refusal.problem, dict(refusal.headers))(scope, receive, answered)
            return
        await self._app(scope, receive, answered)

    def _host_refusal(self, headers: Headers) -> Refusal | None:
        # A page that rebinds its own name to this machine has no token; without tokens only the name tells.
        if self._authority.enabled:
            return None
        hosts = headers.getlist("host")
        if hosts and all(_is_loopback(_host_name(f"//{host}")) for host in hosts):
            return None
        return Refusal(problem=HostRefused())

    def _origin_refusal(self, call: Call) -> Refusal | None:
        if call.origin is None or self._authority.cors.allows(call.origin):
            return None
        self._authority.origin_refused(call)
        return Refusal(problem=OriginRefused())


def _call(scope: Scope, headers: Headers) -> Call:
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    client = scope.get("client")
    return Call(
        method=scope["method"],
        path=raw.partition(b"?")[0].decode("latin-1"),
        authorization=headers.get("authorization"),
        origin=headers.get("origin"),
        remote_addr=None if client is None else str(client[0]),
    )


def _with_cors(send: Send, origin: str) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(allowing(origin))
        await send(message)

    return sending


def _host_name(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _is_loopback(name: str | None) -> bool:
    if name is None:
        return False
    name = name.rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
