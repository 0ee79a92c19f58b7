"""The real daemon on a database that kills its own process at a chosen point. Nothing of it ships.

KHEISH_CRASH_POINT=after_commit:tool_intended:3 python -m tests.crash.daemon --state-root …
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import click

from kheish.daemon.cli import SERVE_OPTIONS
from kheish.daemon.serve import main
from kheish.runtime.cli import PERMISSION_MODES
from kheish.store.database import SqliteDatabase, Transaction

T = TypeVar("T")

_SLOW_S = 0.2
VARIABLE = "KHEISH_CRASH_POINT"
ANY = "any"
"""Every commit counts, whatever is in it."""


class Stage(StrEnum):
    BOOT = "boot"
    """Before the n-th statement after the store was opened: migrations, reading the state, the first commits."""
    BEFORE_BEGIN = "before_begin"
    INSIDE = "inside"
    """Right after the entry was inserted, in the middle of its transaction."""
    BEFORE_COMMIT = "before_commit"
    """Everything is inserted, nothing is durable."""
    AFTER_COMMIT = "after_commit"
    """Everything is durable, nobody has heard of it."""


@dataclass(frozen=True, kw_only=True)
class KillPoint:
    """At ``stage`` of the commit that holds the n-th entry of ``type``, or of the n-th commit of any type."""

    stage: Stage
    type: str = ANY
    nth: int = 1

    def __str__(self) -> str:
        return f"{self.stage}:{self.type}:{self.nth}"

    @classmethod
    def parse(cls, text: str) -> KillPoint:
        stage, type, nth = text.split(":")
        return cls(stage=Stage(stage), type=type, nth=int(nth))


class MortalDatabase(SqliteDatabase):
    """The real store, until its process reaches the point."""

    def __init__(self, path: Path, point: KillPoint) -> None:
        self._point = point
        self._statements = self._seen = 0
        self._serving = self._due = False
        super().__init__(path)
        self._connection.set_trace_callback(self._on_statement)

    async def write(self, unit: Callable[[Transaction], T], *, meanwhile: Callable[[], None] | None = None) -> T:
        if not self._serving:
            # After migrations and boot checks, before the writer's thread touches the connection.
            self._watch_entries(self._connection)
            self._serving = True
        return await super().write(unit, meanwhile=meanwhile)

    def _watch_entries(self, connection: sqlite3.Connection) -> None:
        connection.create_function("entry_inserted", 1, self._on_entry)
        connection.execute(
            "CREATE TEMP TRIGGER watch_entries AFTER INSERT ON main.journal BEGIN SELECT entry_inserted(NEW.type); END"
        )

    def _on_entry(self, type: str) -> None:
        if type == self._point.type:
            self._count(Stage.INSIDE)

    def _on_statement(self, sql: str) -> None:
        """Called before each statement of the writer."""
        self._statements += 1
        if self._point.stage is Stage.BOOT and self._statements >= self._point.nth:
            _die()
        if not self._serving:
            return
        if sql.startswith("BEGIN") and self._point.type == ANY:
            self._count(Stage.BEFORE_BEGIN)
        elif sql == "COMMIT" and self._due and self._point.stage is Stage.BEFORE_COMMIT:
            _die(slowly=True)

    def _count(self, stage: Stage) -> None:
        self._seen += 1
        self._due = self._seen >= self._point.nth
        if self._due and self._point.stage is stage:
            _die(slowly=True)

    def _wake(self, group: list[Any]) -> None:
        if self._due and self._point.stage is Stage.AFTER_COMMIT:
            _die()
        super()._wake(group)


def _die(*, slowly: bool = False) -> None:
    if slowly:
        # A slow disk: whoever does not wait for the commit gives himself away.
        time.sleep(_SLOW_S)
    os.kill(os.getpid(), signal.SIGKILL)


def _serve(**options: object) -> None:
    mode = options["permission_mode"]
    options["permission_mode"] = None if mode is None else PERMISSION_MODES[str(mode)]
    point = os.environ.get(VARIABLE)
    if point is None:
        sys.exit(main(options))
    sys.exit(main(options, open_database=lambda path: MortalDatabase(path, KillPoint.parse(point))))


if __name__ == "__main__":
    click.Command("serve", params=[*SERVE_OPTIONS], callback=_serve)()
