"""Kills at random instants and at chosen points, in an order drawn from the seed, while there is work to kill.

The seed draws the work, the manners of the kills, the points and the waits. It does not draw what the kernel's
scheduler makes of them, so a seed repeats a failure with a good chance, not with certainty.
"""

from __future__ import annotations

import signal
import threading

from tests.crash.daemon import ANY, KillPoint, Stage
from tests.crash.laboratory import World
from tests.crash.work import draw, hanging

MANNERS = {"instant": 5, "point": 4, "boot": 2, "drain": 2, "stop": 1}
"""How the daemon goes down, and how often each way is chosen."""
_LASTING = 2
"""Resumes without progress that a run may have before a kill: it is not resumed more than three times in vain."""
_NEEDS_CALM = ("point", "boot")
"""They may cost two resumes in a row."""
TYPES = (
    "run_started",
    "model_replied",
    "model_failed",
    "calls_decided",
    "approvals_resolved",
    "question_requested",
    "question_resolved",
    "tool_intended",
    "tool_finished",
    "followed_up",
    "woken",
    "resumed",
    "stop_requested",
    "run_ended",
)
_POINT_S = 2.0
"""A point may not come up; then the process is killed like any other."""
_BOOT_S = 0.9
"""About the length of a start."""
_HANGING_PART = 0.1


class Killer:
    """Keeps the sessions busy and kills the daemon until it was killed often enough."""

    def __init__(self, world: World, *, sessions: int, turns: int, manners: dict[str, int] | None = None) -> None:
        self._world = world
        self._manners = manners or MANNERS
        self._chance = world.chance
        self._turns = turns
        self._sessions = [f"session-{number:02}" for number in range(sessions)]
        self._rounds = dict.fromkeys(self._sessions, 0)

    def rampage(self, kills: int) -> None:
        """Return when the daemon was killed ``kills`` times and all the work is done."""
        world = self._world
        for session in self._sessions:
            self._submit(session)
            self._submit(session)
        world.watch("watcher of everything", "/v1/events/stream")
        world.watch("watcher of a session", f"/v1/sessions/{self._sessions[0]}/stream")
        world.start()
        world.open()
        while world.tally.kills < kills:
            self._submit_more()
            world.until_progress(self._chance.choice((0, 1, 1, 2, 2)))
            self._once()
        world.until_over()

    def _once(self) -> None:
        """One kill or stop, and the next start."""
        manner = self._chance.choices([*self._manners], weights=[*self._manners.values()])[0]
        if manner in _NEEDS_CALM and self._world.streak() >= _LASTING:
            manner = "instant"
        getattr(self, f"_{manner}")()
        if self._world.daemon.exit_status is not None:
            assert self._world.start(), f"the daemon does not start any more\n{self._world.daemon.log()[-4000:]}"

    def _instant(self) -> None:
        self._wait(0.25)
        self._world.kill("instant")

    def _point(self) -> None:
        self._world.kill("instant")
        if self._world.streak() >= _LASTING:
            return
        point = self._draw_point()
        if not self._world.start(point) or self._world.await_death("point", _POINT_S):
            return
        self._world.kill("instant")

    def _boot(self) -> None:
        self._world.kill("instant")
        if self._world.streak() >= _LASTING:
            return
        self._world.daemon.begin()
        self._wait(_BOOT_S)
        self._world.kill("boot")

    def _drain(self) -> None:
        self._world.daemon.signal(signal.SIGTERM)
        self._wait(0.4)
        self._world.kill("drain")

    def _stop(self) -> None:
        self._world.stop()

    def _draw_point(self) -> KillPoint:
        stage = self._chance.choice([*Stage])
        if stage is Stage.BOOT:
            return KillPoint(stage=stage, nth=self._chance.randint(1, 60))
        if stage is Stage.BEFORE_BEGIN or (stage is not Stage.INSIDE and self._chance.random() < 0.4):
            return KillPoint(stage=stage, type=ANY, nth=self._chance.randint(1, 40))
        return KillPoint(stage=stage, type=self._chance.choice(TYPES), nth=self._chance.randint(1, 6))

    def _wait(self, at_most_s: float) -> None:
        """A random instant is the subject here, not a way to synchronise."""
        threading.Event().wait(self._chance.uniform(0, at_most_s))

    def _submit(self, session: str) -> None:
        self._rounds[session] += 1
        label = f"{session}-{self._rounds[session]}"
        hangs = self._rounds[session] > 1 and self._chance.random() < _HANGING_PART
        self._world.submit(session, hanging(label) if hangs else draw(label, self._world.seed, self._turns))

    def _submit_more(self) -> None:
        """A session that ran out of work gets more."""
        if not self._world.submitter.idle:
            return
        busy = {row[0] for row in self._world.rows("SELECT session_id FROM runs WHERE live = 1")}
        for session in self._sessions:
            if session not in busy:
                self._submit(session)
