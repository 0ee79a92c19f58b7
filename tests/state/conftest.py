from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from kheish.state.verify import verify
from tests.http.house import House, opened


class Kept:
    """The state root of a daemon that was stopped, with everything a daemon keeps in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / "state"
        self.database = self.state / "kheish.db"

    def change(self, *statements: str) -> None:
        """Damage or move rows behind the daemon's back."""
        with closing(sqlite3.connect(self.database, isolation_level=None)) as connection:
            for statement in statements:
                assert connection.execute(statement).rowcount != 0, statement

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.database)) as connection:
            return connection.execute(query).fetchall()

    def verified(self, **options: Any) -> Any:
        return verify(self.state, **options)

    def codes(self) -> list[str]:
        return sorted({finding["code"] for finding in self.verified()["findings"]})


async def fill(house: House) -> None:
    """Runs of every fate: completed with tools, outputs, denied, waiting for an approval and for an answer, queued."""
    for session_id in ("s", "ask/ü", "wait"):
        await house.session(session_id)
    for text in ("hi", "emit", "write the file", "break"):
        await house.submit(text)
        await house.settled()
        await _allowed(house, "s")
    await house.submit("question", "ask/ü")
    await house.submit("count once", "wait")
    await house.submit("queued behind it", "wait")
    await house.settled("ask/ü")
    await house.settled("wait")
    await house.post("/v1/sessions/s/runs", {"content": "keyed"}, key="one key")
    await house.settled()


async def _allowed(house: House, session_id: str) -> None:
    for run in (await house.get("/v1/runs", session_id=session_id)).json():
        for request in run.get("pending_approvals", ()):
            await allow(house, run["run_id"], request["id"])
    await house.settled(session_id)


async def allow(house: House, run_id: str, request_id: str) -> None:
    body = {"resolutions": [{"request_id": request_id, "behavior": "allow"}]}
    assert (await house.post(f"/v1/runs/{run_id}/approvals", body)).status_code == 202


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once; tests work on copies."""
    root = tmp_path_factory.mktemp("filled")

    async def make() -> None:
        async with opened(root) as house:
            await fill(house)

    asyncio.run(make())
    return root


@pytest.fixture
def kept(filled: Path, tmp_path: Path) -> Kept:
    root = tmp_path / "kept"
    shutil.copytree(filled, root)
    return Kept(root)


@pytest.fixture
def lines() -> Callable[[bytes], list[Any]]:
    return lambda data: [json.loads(line) for line in data.splitlines()]
