"""The OpenAPI document is true: no 5xx and no undocumented response, whatever is sent (decision 37)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from kheish.daemon.openapi import document
from tests.e2e.daemon_process import Daemon

pytestmark = pytest.mark.e2e

LEFT_OUT = {
    "stream_events": "never ends",
    "stream_session": "never ends",
    "stream_run": "never ends",
    "run_input": "returns when the run does; tests/http/test_runs.py",
    "resolve_session_approvals": "returns when the run does; tests/http/test_approvals.py",
    "answer_session_question": "returns when the run does; tests/http/test_questions.py",
}
"""Operations that have tests of their own instead."""

CHECKS = (not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance)
ROUTES = '[routes.main]\ndriver = "scripted"\ndefault_model = "m"\nscript = "script.toml"\n'
SCRIPT = '[fallback]\ntext = "You said: ${user}"\n'

schema = schemathesis.openapi.from_dict(document()).exclude(operation_id=list(LEFT_OUT))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root: Path = tmp_path_factory.mktemp("openapi")
    (root / "script.toml").write_text(SCRIPT)
    daemon = Daemon(root, routes=ROUTES)
    daemon.start()
    yield daemon.url
    daemon.stop()


@pytest.mark.timeout(300)
@schema.parametrize()
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_every_answer_is_documented(case: Any, url: str) -> None:
    case.call_and_validate(base_url=url, checks=CHECKS)


def test_the_operations_left_out_exist_and_the_others_are_tested() -> None:
    operations = {operation["operationId"] for path in document()["paths"].values() for operation in path.values()}

    assert set(LEFT_OUT) < operations
    assert len(operations) == sum(len(path) for path in document()["paths"].values())
