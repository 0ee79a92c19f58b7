from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from kheish import AsyncKheish, Kheish
from tests.sdk.both_clients import Awaited
from tests.sdk.wire_server import Respond, WireServer

ServerFactory = Callable[[Respond], WireServer]
ClientFactory = Callable[..., Any]


@pytest.fixture
def serve() -> Iterator[ServerFactory]:
    """Start a server that answers by a function."""
    started: list[WireServer] = []

    def start(respond: Respond) -> WireServer:
        server = WireServer(respond)
        started.append(server)
        return server.__enter__()

    yield start
    for server in started:
        server.__exit__(None, None, None)


@pytest.fixture(params=["sync", "async"])
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[ClientFactory]:
    """Make a client of either kind, with the same awaitable methods."""
    made: list[Any] = []

    def make(server: WireServer | str, token: str | None = None, **options: Any) -> Any:
        url = server if isinstance(server, str) else server.url
        kind = Kheish if request.param == "sync" else AsyncKheish
        client = kind(url, token, **options)
        made.append(client)
        return Awaited(client) if isinstance(client, Kheish) else client

    yield make
    for client in made:
        if isinstance(client, Kheish):
            client.close()
        else:
            await client.close()
