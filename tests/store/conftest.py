from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kheish.store.database import SqliteDatabase
from kheish.store.feed import Feed
from kheish.store.migrations import migrate


@pytest.fixture(params=["file", "memory"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqliteDatabase]:
    made = SqliteDatabase(tmp_path / "kheish.db" if request.param == "file" else None)
    made.run_offline(migrate)
    yield made
    made.close()


@pytest.fixture
def feed(database: SqliteDatabase) -> Feed:
    made = Feed(database)
    database.run_offline(made.load)
    database.attach(made)
    return made
