"""The laboratory: a daemon, a model server and people around it; kills; and everything the checks need afterwards."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.crash import work
from tests.crash.daemon import VARIABLE, KillPoint
from tests.crash.people import Operator, Person, Stopper, Submission, Submitter, Watcher
from tests.crash.work import Model, Work
from tests.e2e.conftest import ROUTES
from tests.e2e.daemon_process import DEADLINE_S, Daemon, wait_for
from tests.fakes.model_server import ModelServer

_POLL_S = 0.02
DRAIN_MS = 2000
STUCK_S = 60
"""Without one new journal entry for so long the world is stuck."""

Row = tuple[Any, ...]


class MortalDaemon(Daemon):
    """A daemon that may be told to kill itself, and whose children can be counted."""

    @property
    def command(self) -> list[str]:
        _, _, _, _, *options = super().command
        return [sys.executable, "-m", "tests.crash.daemon", *options]

    def begin(self, point: KillPoint | None = None) -> None:
        """Start and do not wait."""
        self.begun = time.monotonic()
        self.begun_ticks = _now_ticks()
        self.spawn(**({} if point is None else {VARIABLE: str(point)}))

    def ready(self) -> bool:
        """Wait until the daemon listens or is dead; True when it listens."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            if self.exit_status is not None:
                return False
            with contextlib.suppress(AssertionError):
                if (url := self.ready_url()) is not None:
                    self.url = url
                    return True
            time.sleep(_POLL_S)
        raise AssertionError(f"the daemon neither listens nor dies\n{self.log()[-4000:]}")

    def processes(self, *, begun_before: int | None = None) -> list[str]:
        """Living processes whose directory is the workspace, with their commands; see proc(5) for ticks."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal():
                continue
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
                inside = (entry / "cwd").resolve().is_relative_to(self.workspace.resolve())
                early = begun_before is None or int(fields[19]) < begun_before
                if inside and early and fields[0] not in (b"Z", b"X"):
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        return found


def _now_ticks() -> int:
    """Clock ticks since the machine's start, as process start times are counted."""
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return int(uptime * os.sysconf("SC_CLK_TCK"))


@dataclass(kw_only=True)
class Tally:
    """What happened to the daemon."""

    kills: int = 0
    by_manner: dict[str, int] = field(default_factory=dict)
    clean_stops: int = 0

    def count(self, manner: str) -> None:
        self.kills += 1
        self.by_manner[manner] = self.by_manner.get(manner, 0) + 1


class World:
    """One state root and workspace, used by people while the daemon on it is killed and started again."""

    def __init__(self, root: Path, *, seed: int, mode: str = "accept-edits", images: bool = True) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.model = Model(seed=seed)
        self.server = ModelServer(self.model.respond)
        self.server.__enter__()
        arguments = ("--permission-mode", mode, "--drain-timeout-ms", str(DRAIN_MS))
        self.daemon = MortalDaemon(root, routes=ROUTES.format(url=self.server.url), arguments=arguments)
        self.effects = self.daemon.workspace / work.EFFECTS
        self.effects.mkdir()
        self.tally = Tally()
        self.sessions: dict[str, str] = {}
        """Label to session."""
        self.violations: list[str] = []
        """What was wrong while it ran."""
        self.images = _Images(root / "image") if images else None
        self.submitter = Submitter(self._url)
        self.operator = Operator(self._url, random.Random(seed + 1))
        self.stopper = Stopper(self._url, self._hanging)
        self.watchers: list[Watcher] = []
        self._people: list[Person] = []

    def _url(self) -> str:
        return self.daemon.url

    @property
    def database(self) -> Path:
        return self.daemon.state_root / "kheish.db"

    # Work

    def submit(self, session: str, piece: Work) -> None:
        """Hand a piece of work to the submitter."""
        self.model.works[piece.label] = piece
        self.sessions[piece.label] = session
        (self.effects / f"{piece.label}.txt").write_text(f"begin {piece.label}\nend\n")
        self.submitter.add(Submission(session=session, work=piece))

    def watch(self, name: str, path: str) -> None:
        watcher = Watcher(name, self._url, path)
        self.watchers.append(watcher)
        if self._people:
            self._people.append(watcher)
            watcher.start()

    def open(self) -> None:
        """Let the people in, if they are not there yet."""
        if self._people:
            return
        self._people = [self.submitter, self.operator, self.stopper, *self.watchers]
        for person in self._people:
            person.start()

    # Life and death

    def start(self, point: KillPoint | None = None) -> bool:
        """Start the daemon; False when it died before it listened."""
        self.daemon.begin(point)
        return self.is_ready()

    def is_ready(self) -> bool:
        """Wait for the started daemon; when it listens, nothing of an earlier one may run any more."""
        if not self.daemon.ready():
            self._expect_death("boot")
            return False
        if left := self.daemon.processes(begun_before=self.daemon.begun_ticks):
            self.violations.append(f"children of a killed daemon were alive when the next one was ready: {left}")
        return True

    def kill(self, manner: str) -> None:
        """SIGKILL; it may have died already."""
        self.daemon.kill()
        self._expect_death(manner)

    def await_death(self, manner: str, within_s: float) -> bool:
        """Wait for the daemon to kill itself, up to ``within_s``; False when it did not."""
        deadline = time.monotonic() + within_s
        while self.daemon.exit_status is None:
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
        self._expect_death(manner)
        return True

    def _expect_death(self, manner: str) -> None:
        status = self.daemon.exit_status
        if status == 0:
            self.tally.clean_stops += 1  # it was told to stop, and was faster
        elif status == -9:
            self.tally.count(manner)
        else:
            raise AssertionError(f"the daemon ended with {status}\n{self.daemon.log()[-6000:]}")
        if self.images is not None:
            self.violations += self.images.take(self.daemon.state_root)

    def stop(self) -> None:
        """SIGTERM and a clean end."""
        status = self.daemon.terminate()
        if status != 0:
            self.violations.append(f"a stop ended with {status}")
        self.tally.clean_stops += 1

    def verify(self) -> list[str]:
        """What the daemon's own offline check has to say about the state it left."""
        root = ["--state-root", str(self.daemon.state_root)]
        command = [sys.executable, "-m", "kheish", "state", "verify", *root]
        done = subprocess.run(command, env=self.daemon.env, capture_output=True, text=True, check=False)
        return [] if done.returncode == 0 else [f"state verify: {done.returncode} {done.stdout} {done.stderr}"]

    def close(self) -> None:
        """End everything; safe to call twice."""
        for person in self._people:
            person.stop()
        self.daemon.stop()
        for person in self._people:
            person.join(DEADLINE_S)
        self.server.__exit__(None, None, None)

    # Looking

    def rows(self, statement: str) -> list[Row]:
        """Query the database from outside, changing nothing. Empty while there is no schema."""
        if not self.database.exists():
            return []
        with contextlib.closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=10)) as connection:
            try:
                return connection.execute(statement).fetchall()
            except sqlite3.OperationalError as error:
                if "no such table" in str(error):
                    return []
                raise

    def live(self) -> int:
        """Accepted work that is not over, and work that is not accepted yet."""
        waiting = len(self.sessions) - len(self.submitter.accepted)
        return waiting + self.rows("SELECT COUNT(*) FROM runs WHERE live = 1")[0][0] if self._has_runs() else waiting

    def _has_runs(self) -> bool:
        return bool(self.rows("SELECT 1 FROM sqlite_schema WHERE name = 'runs'"))

    def entries(self) -> int:
        found = self.rows("SELECT COUNT(*) FROM journal")
        return int(found[0][0]) if found else 0

    def streak(self) -> int:
        """The longest row of resumes without progress among the running runs: the daemon gives up at three."""
        longest, current = 0, dict[str, int]()
        rows = self.rows(
            "SELECT j.run_id, j.type FROM runs r JOIN journal j ON j.session_id = r.session_id AND j.run_id = r.run_id"
            " WHERE r.status = 'running' AND j.type IN ('resumed', 'model_replied', 'tool_finished')"
            " ORDER BY j.session_id, j.position"
        )
        for run_id, type in rows:
            current[run_id] = current.get(run_id, 0) + 1 if type == "resumed" else 0
        for resumes in current.values():
            longest = max(longest, resumes)
        return longest

    def until_accepted(self) -> None:
        """Wait until the daemon has answered for every piece of work."""
        wait_for(lambda: self.submitter.idle, "work was not accepted", lambda: str(self.troubles()))

    def until_progress(self, streak: int) -> None:
        """Wait until no running run has more than ``streak`` resumes in a row, or nothing is left to do."""
        last, since = self.entries(), time.monotonic()
        while self.streak() > streak and self.live() and self.daemon.exit_status is None:
            time.sleep(_POLL_S)
            last, since = self._moved(last, since)

    def until_over(self) -> None:
        """Wait until every piece of work has ended; the daemon must live."""
        last, since = self.entries(), time.monotonic()
        while self.live():
            assert self.daemon.exit_status is None, f"the daemon died\n{self.daemon.log()[-6000:]}"
            time.sleep(_POLL_S * 5)
            last, since = self._moved(last, since)

    def _moved(self, last: int, since: float) -> tuple[int, float]:
        now = self.entries()
        if now != last:
            return now, time.monotonic()
        if time.monotonic() - since > STUCK_S:
            live = self.rows("SELECT run_id, session_id, status, due_at_ms FROM runs WHERE live = 1")
            log = self.daemon.log()[-6000:]
            raise AssertionError(f"nothing moves any more; live: {live}\n{self.troubles()}\n{log}")
        return last, since

    def until_watched(self) -> None:
        """Wait until every watcher has seen the last event of its stream."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            if all(watcher.last_id >= self._last_event(watcher.path) for watcher in self.watchers):
                return
            time.sleep(_POLL_S)
        late = [(w.path, w.last_id, self._last_event(w.path)) for w in self.watchers]
        self.violations.append(f"a watcher did not see the last event of its stream: {late}")

    def _last_event(self, path: str) -> int:
        return int(self.rows(f"SELECT COALESCE(MAX(id), 0) FROM feed {scope_of(path)}")[0][0])

    def _hanging(self) -> list[tuple[str, str]]:
        """Runs that hang and whose command has begun."""
        found = []
        for label, run_id in tuple(self.submitter.accepted.items()):
            if self.model.works[label].hangs and (self.effects / f"{label}.log").exists():
                live = self.rows(f"SELECT 1 FROM runs WHERE run_id = '{run_id}' AND live = 1")
                found += [(run_id, self.sessions[label])] if live else []
        return found

    def troubles(self) -> list[str]:
        """What the people complain about."""
        return [trouble for person in self._people for trouble in person.troubles] + self.model.confused


def scope_of(path: str) -> str:
    """The rows of the feed that a stream shows, as SQL."""
    parts = path.split("?")[0].split("/")
    if parts[2] == "sessions":
        return f"WHERE session_id = '{parts[3]}'"
    return f"WHERE run_id = '{parts[3]}'" if parts[2] == "runs" else ""


@contextlib.contextmanager
def world(root: Path, **options: Any) -> Iterator[World]:
    """A world that is closed in the end, whatever happens."""
    made = World(root, **options)
    try:
        yield made
    finally:
        made.close()


class _Images:
    """Looks at what a kill left on disk, on a copy, and holds each against the one before."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._journal: dict[tuple[str, int], Row] = {}
        self._last_event = 0

    def take(self, state_root: Path) -> list[str]:
        """Copy database and log, let SQLite recover the copy, and return what is wrong with it."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        for name in ("kheish.db", "kheish.db-wal"):
            if (state_root / name).exists():
                shutil.copy(state_root / name, self._folder)
        with contextlib.closing(sqlite3.connect(self._folder / "kheish.db")) as image:
            return list(self._wrong(image))

    def _wrong(self, image: sqlite3.Connection) -> Iterator[str]:
        (verdict,) = image.execute("PRAGMA quick_check").fetchone()
        if verdict != "ok":
            yield f"after a kill the database is damaged: {verdict}"
        if not image.execute("SELECT 1 FROM sqlite_schema WHERE name = 'feed'").fetchone():
            return
        rows = image.execute("SELECT session_id, position, run_id, at_ms, type, body FROM journal").fetchall()
        journal = {(row[0], row[1]): row[2:] for row in rows}
        for key, row in self._journal.items():
            if journal.get(key) != row:
                yield f"entry {key} was {row[:3]} after one kill and {journal.get(key, ())[:3]} after a later one"
        self._journal = journal
        (last,) = image.execute("SELECT COALESCE(MAX(id), 0) FROM feed").fetchone()
        if last < self._last_event:
            yield f"the feed went back from {self._last_event} to {last}"
        self._last_event = last
