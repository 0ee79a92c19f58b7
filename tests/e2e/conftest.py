from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.daemon_process import Daemon
from tests.fakes.model_server import ModelServer, Respond, Response

DaemonFactory = Callable[..., Daemon]

ROUTES = """
[routes.main]
driver = "openai_compatible"
default_model = "m"
base_url = "{url}"
"""


@pytest.fixture
def daemon_for(tmp_path: Path) -> Iterator[DaemonFactory]:
    """Start a daemon on a routes file; keywords go to `Daemon`."""
    started: list[Daemon] = []

    def make(routes: str, **options: Any) -> Daemon:
        daemon = Daemon(tmp_path / f"daemon-{len(started)}", routes=routes, **options)
        started.append(daemon)
        daemon.start()
        return daemon

    yield make
    for daemon in started:
        daemon.stop()


@pytest.fixture
def served(daemon_for: DaemonFactory) -> Iterator[Callable[..., tuple[Daemon, ModelServer]]]:
    """Start a daemon whose model is a function, behind a real server on the chat-completions wire."""
    servers: list[ModelServer] = []

    def make(respond: Respond | Response, **options: Any) -> tuple[Daemon, ModelServer]:
        server = ModelServer(respond)
        servers.append(server)
        server.__enter__()
        return daemon_for(ROUTES.format(url=server.url), **options), server

    yield make
    for server in servers:
        server.__exit__(None, None, None)


@pytest.fixture
def daemon(served: Callable[..., tuple[Daemon, ModelServer]]) -> Daemon:
    """A daemon whose model answers `echo: <last user text>`."""
    from tests.fakes.model_server import Answer

    made, _ = served(lambda request: Answer(text=f"echo: {request.user_text}"))
    return made
