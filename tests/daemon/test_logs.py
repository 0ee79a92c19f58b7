"""What a log line may say."""

from __future__ import annotations

import asyncio
import io
import logging
import sys
from collections.abc import Iterator

import pytest
import structlog

from kheish.core.redaction import Redactor
from kheish.daemon import logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    configured = structlog.get_config()
    yield
    structlog.configure(**configured)
    root.handlers[:] = handlers
    root.setLevel(level)


def fail() -> None:
    api_key = "hunter2"
    raise RuntimeError(f"a call with a key of {len(api_key)} characters failed")


@pytest.mark.parametrize("log_format", ["pretty", "json"])
def test_a_logged_failure_shows_where_it_happened_and_no_local_variables(
    log_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure(log_format=log_format, log_level="info", redactor=Redactor())
    for log in (structlog.get_logger("ours"), logging.getLogger("of a library")):
        try:
            fail()
        except RuntimeError as error:
            log.error("it failed", exc_info=error)
    said = capsys.readouterr().err

    assert said.count("a call with a key of 7 characters failed") == 2
    assert said.count("in fail") == 2
    # The line of code is shown; the frame's variables, which hold the key again, are not.
    assert "locals" not in said
    assert said.count("hunter2") == 0


@pytest.mark.parametrize("log_format", ["pretty", "json"])
def test_each_line_is_one_write_so_that_a_kill_cuts_none(log_format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []

    class Stream(io.StringIO):
        def write(self, text: str) -> int:
            written.append(text)
            return len(text)

    monkeypatch.setattr(sys, "stderr", Stream())
    logs.configure(log_format=log_format, log_level="info", redactor=Redactor())
    structlog.get_logger("ours").info("one")
    logging.getLogger("of a library").warning("two")

    assert len(written) == 2
    assert all(text.endswith("\n") for text in written)


def test_a_request_cancelled_at_shutdown_is_no_crash(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(log_format="json", log_level="info", redactor=Redactor())
    server = logging.getLogger("uvicorn.error")
    for error in (asyncio.CancelledError("timeout"), RuntimeError("a real one")):
        server.error("Exception in ASGI application", exc_info=error)
    said = capsys.readouterr().err

    assert said.count("Exception in ASGI application") == 1
    assert "a real one" in said


@pytest.mark.parametrize("log_format", ["pretty", "json"])
def test_a_known_secret_reaches_no_line(log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    redactor = Redactor()
    redactor.add(['hunter2-"quoted"-ü', "hunter2-plain"])
    logs.configure(log_format=log_format, log_level="info", redactor=redactor)
    for log in (structlog.get_logger("ours"), logging.getLogger("of a library")):
        try:
            raise RuntimeError("hunter2-plain was refused")
        except RuntimeError as error:
            log.error('key hunter2-"quoted"-ü', exc_info=error)
    structlog.get_logger("ours").info("x", detail={"key": "hunter2-plain"})
    said = capsys.readouterr().err

    assert "hunter2" not in said
    assert said.count("[redacted]") >= 5
