"""What stands in the store while things happen, and what a damaged row does."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable

import pytest

from tests.e2e.daemon_process import Daemon, wait_for_text
from tests.fakes.model_server import Answer, Call, ModelServer, Request, Response

pytestmark = pytest.mark.e2e

Served = Callable[..., tuple[Daemon, ModelServer]]


def rows(daemon: Daemon, sql: str) -> list[sqlite3.Row]:
    with sqlite3.connect(f"file:{daemon.state_root / 'kheish.db'}?mode=ro", uri=True) as connection:
        connection.row_factory = sqlite3.Row
        return connection.execute(sql).fetchall()


def test_the_intent_is_in_the_store_while_the_tool_runs_and_offsets_increase(served: Served) -> None:
    def respond(request: Request) -> Response:
        if request.tool_results:
            return Answer(text="done")
        return Answer(calls=[Call(name="bash", arguments={"command": "echo x > began; read < go.fifo"})])

    daemon, _ = served(respond, arguments=("--permission-mode", "bypass-permissions"))
    os.mkfifo(daemon.workspace / "go.fifo")
    run_id = daemon.submit(daemon.session())
    wait_for_text(daemon.workspace / "began", "x")

    during = rows(daemon, "SELECT type, position FROM journal ORDER BY position")
    assert during[-1]["type"] == "tool_intended"
    (daemon.workspace / "go.fifo").write_text("go\n")
    daemon.wait(run_id)
    after = rows(daemon, "SELECT position, version, body FROM journal ORDER BY position")
    assert [row["position"] for row in after] == list(range(1, len(after) + 1))
    assert {row["version"] for row in after} == {1}


def test_garbage_in_one_runs_row_hides_nobody_elses_and_its_number_is_not_reused(served: Served) -> None:
    daemon, _ = served(Answer(text="fine"))
    session = daemon.session()
    first, second = daemon.submit(session), daemon.submit(session)
    daemon.wait(second)
    daemon.kill()
    with sqlite3.connect(daemon.state_root / "kheish.db") as connection:
        connection.execute("UPDATE runs SET request = '{garbage' WHERE run_id = ?", (first,))
    daemon.start()

    listed = [view["run_id"] for view in daemon.call("GET", "/v1/runs")]
    assert listed == [second]
    assert daemon.call("GET", f"/v1/runs/{first}", status=404)["code"] == "run_not_found"
    third = daemon.submit(session)
    assert int(third.removeprefix("run-")) > int(second.removeprefix("run-"))
    assert daemon.wait(third)["status"] == "completed"
    assert daemon.call("GET", "/v1/status")["ready"] is True
