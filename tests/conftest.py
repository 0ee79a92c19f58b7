from __future__ import annotations

import pytest
import structlog

from tests.crash.summary import summarise


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--crash-seed", help="What the crash laboratory draws its kills from; a failure names its own.")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    # Here and not beside the laboratory: with several workers the process that prints loads this file only.
    summarise(terminalreporter)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def plain_tracebacks() -> None:
    """Drawing every local variable of a traceback takes longer than the tests."""
    renderer = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[structlog.processors.add_log_level, renderer])
