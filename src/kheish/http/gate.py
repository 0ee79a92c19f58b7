"""Who may talk to the daemon. Without tokens: only this machine, and no web page of another origin."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from kheish.core.problems import Problem
from kheish.http.problems import render

PUBLIC_PATHS = frozenset({"/healthz", "/readyz"})
"""Probes: they tell nothing, and an orchestrator may call them by any name."""


class HostRefused(Problem):
    """The Host header names another machine; without tokens the daemon answers to loopback names only."""

    domain, code, status = "auth", "host_not_allowed", 403


class OriginRefused(Problem):
    """A web page of another origin sent this request."""

    domain, code, status = "auth", "origin_not_allowed", 403


class Gate:
    """The place of access control; every request but the probes passes here before anything reads it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in PUBLIC_PATHS:
            refused = _refusal(Headers(scope=scope))
            if refused is not None:
                await render(refused)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _refusal(headers: Headers) -> Problem | None:
    hosts = headers.getlist("host")
    if not hosts or not all(_is_loopback(_host_name(f"//{host}")) for host in hosts):
        return HostRefused()
    origin = headers.get("origin")
    if origin is not None and not _is_loopback(_host_name(origin)):
        return OriginRefused()
    return None


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
