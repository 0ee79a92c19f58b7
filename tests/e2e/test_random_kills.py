"""Kills at random instants: the run completes, and no command runs twice. KHEISH_KILL_SEED repeats a failure."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable

import pytest

from tests.e2e.daemon_process import Daemon, wait_for
from tests.fakes.model_server import Answer, Call, ModelServer, Request, Response

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

TURNS = 40
KILLS = 6
SESSIONS = 4


def test_runs_survive_kills_at_random_instants_and_run_each_command_at_most_once(
    served: Callable[..., tuple[Daemon, ModelServer]],
) -> None:
    seed = int(os.environ.get("KHEISH_KILL_SEED", random.randrange(2**32)))
    chance = random.Random(seed)

    def respond(request: Request) -> Response:
        turn = len(request.tool_results)
        if turn >= TURNS:
            return Answer(text=f"{request.user_text} is done")
        command = f"echo {turn} >> {request.user_text}.log"
        return Answer(calls=[Call(name="bash", arguments={"command": command}, id=f"call_{turn}")])

    daemon, server = served(respond, arguments=("--permission-mode", "bypass-permissions"))
    names = [f"work{number}" for number in range(SESSIONS)]
    runs = {name: daemon.submit(daemon.session(name), name) for name in names}
    for _ in range(KILLS):
        seen = len(server.requests)
        # Some progress first: a daemon that is killed again and again before it does anything gives up, as it should.
        wait_for(lambda seen=seen: len(server.requests) >= seen + SESSIONS or over(daemon, runs), "nothing moved")
        threading.Event().wait(chance.uniform(0, 0.2))
        daemon.restart()

    for name, run_id in runs.items():
        view = daemon.wait(run_id)
        assert view["status"] == "completed", f"seed {seed}: {view}"
        assert view["outputs"][-1]["content"] == f"{name} is done"
        ran = (daemon.workspace / f"{name}.log").read_text().split()
        assert len(ran) == len(set(ran)), f"seed {seed}: {name} ran a command twice: {ran}"
        assert ran == sorted(ran, key=int)


def over(daemon: Daemon, runs: dict[str, str]) -> bool:
    return all("finished_at_ms" in daemon.run(run_id) for run_id in runs.values())
