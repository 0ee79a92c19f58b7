"""Every endpoint has a role that somebody chose."""

from __future__ import annotations

import pytest

from kheish.auth.roles import Access, is_classified, required_access
from kheish.daemon.openapi import document


def test_every_endpoint_of_this_daemon_is_classified() -> None:
    operations = [
        (method.upper(), path)
        for path, methods in document()["paths"].items()
        for method in methods
        if path[:2] == "/v"
    ]
    unclassified = [(method, path) for method, path in operations if not is_classified(method, path)]

    assert len(operations) > 40
    assert unclassified == []


@pytest.mark.parametrize(
    "path",
    [
        "/v1/status",
        "/v1/runs",
        "/v1/runs/run-1",
        "/v1/runs/x%2Fdebug",
        "/v1/runs/run-1/events",
        "/v1/runs/run-1/external-actions",
        "/v1/sessions/a%2Fb/tasks/t/output",
        "/v1/runtime/connectors/http/inbox",
        "/v1/docs",
        "/metrics",
    ],
)
def test_listed_reads_need_the_read_only_role(path: str) -> None:
    assert required_access("GET", path) is Access.READ_ONLY
    assert required_access("HEAD", path) is Access.READ_ONLY
    assert required_access("POST", path) is Access.ADMIN
    assert required_access("DELETE", path) is Access.ADMIN


@pytest.mark.parametrize(
    "path",
    [
        "/v1/runtime/secrets",
        "/v1/runtime/secrets/openai.prod",
        "/v1/runtime/hooks",
        "/v1/runtime/revisions",
        "/v1/runtime/auth/subjects/daemon",
        "/v1/assets/x/raw",
        "/v1/runs/x/debug",
        "/v1/runs/x/debug/artifacts/y",
        "/v1/unknown",
        "/v1/runs/",
        "/v1//runs",
        "/v1/runs/x/events/more",
        "/v1/RUNS",
        "/v1/%72uns",
        "/v1",
        "/",
        "",
        "/v1/logs",
        "/mcp",
        "/v1/stacks",
    ],
)
def test_everything_else_needs_the_admin_role(path: str) -> None:
    assert required_access("GET", path) is Access.ADMIN
