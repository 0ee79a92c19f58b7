"""The real daemon on a database whose failures repeat a secret in their text. Nothing of it ships.

KHEISH_SAYS=sk-... python -m tests.e2e.talkative_daemon --state-root …
"""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from kheish.daemon.cli import SERVE_OPTIONS
from kheish.daemon.serve import main
from kheish.store.database import SqliteDatabase, Transaction

T = TypeVar("T")
VARIABLE = "KHEISH_SAYS"
SWITCH = "fail-now"
"""A file beside the database; while it is there everything fails."""


class TalkativeDatabase(SqliteDatabase):
    """The real store, with bugs in it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._switch = path.with_name(SWITCH)

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        self._break()
        return await super().read(query)

    async def write(self, unit: Callable[[Transaction], T], *, meanwhile: Callable[[], None] | None = None) -> T:
        self._break()
        return await super().write(unit, meanwhile=meanwhile)

    def _break(self) -> None:
        said = os.environ[VARIABLE]
        if self._switch.exists():
            raise RuntimeError(f"a bug that shows {said} and {said!r}") from ValueError({"key": said.encode()})


if __name__ == "__main__":
    serve = click.Command(
        "serve", params=[*SERVE_OPTIONS], callback=lambda **options: main(options, open_database=TalkativeDatabase)
    )
    sys.exit(serve(standalone_mode=False))
