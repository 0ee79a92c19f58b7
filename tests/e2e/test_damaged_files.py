"""Files of a state root that somebody damaged between two starts: the start is refused, and changes nothing."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.daemon_process import DEADLINE_S, Daemon

pytestmark = pytest.mark.e2e


def refusal(daemon: Daemon, *before: str) -> str:
    """Start it, expect it to end by itself with one line, and return that line."""
    command = [*before, *daemon.command]
    done = subprocess.run(command, env=daemon.env, capture_output=True, text=True, timeout=DEADLINE_S)
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return line


def flip_the_middle(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x55
    path.write_bytes(content)


def cut_in_half(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("harm", [flip_the_middle, cut_in_half, lambda path: path.write_bytes(b"garbage" * 999)])
def test_a_damaged_log_is_not_taken_for_one_with_less_in_it(daemon: Daemon, harm: Callable[[Path], object]) -> None:
    daemon.session()
    for _ in range(3):
        daemon.wait(daemon.submit("demo"))
    daemon.kill()
    log = daemon.state_root / "kheish.db-wal"
    whole = log.read_bytes()
    harm(log)
    harmed = log.read_bytes()
    for _ in range(2):
        assert "state restore" in refusal(daemon)
        assert log.read_bytes() == harmed
    for words in (["verify"], ["backup", str(daemon.state_root.parent / "backup")], ["vacuum"], ["export"]):
        command = [*daemon.command[:3], "state", *words, "--state-root", str(daemon.state_root)]
        told = subprocess.run(command, env=daemon.env, capture_output=True, text=True, timeout=DEADLINE_S)
        assert told.returncode != 0
        assert "its log" in told.stdout + told.stderr
    assert "state restore" in refusal(daemon)

    log.write_bytes(whole)
    daemon.start()
    assert len(daemon.call("GET", "/v1/runs")) == 3


@pytest.mark.parametrize("name", [".", "daemon.lock", "kheish.db"])
def test_a_file_that_may_not_be_written_is_a_refusal_that_says_so(daemon: Daemon, name: str) -> None:
    """Root may write everything, unless it gives that up."""
    run_id = daemon.submit(daemon.session())
    daemon.wait(run_id)
    assert daemon.terminate() == 0
    without = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.getuid() == 0 else []
    if without and (shutil.which("setpriv") is None or subprocess.run([*without, "true"]).returncode != 0):
        pytest.skip("root cannot give up its rights here")
    path = daemon.state_root / name
    mode = path.stat().st_mode
    path.chmod(mode & ~0o222)
    if name == ".":
        (daemon.state_root / "daemon.lock").unlink()
    line = refusal(daemon, *without)
    path.chmod(mode)

    assert str(daemon.state_root) in line
    assert any(words in line for words in ("Permission denied", "readonly database", "unable to open"))
    daemon.start()
    assert daemon.run(run_id)["status"] == "completed"


def test_the_database_of_another_program_is_left_as_it_is(daemon: Daemon) -> None:
    assert daemon.terminate() == 0
    path = daemon.state_root / "kheish.db"
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE bookmarks (title TEXT)")
        connection.commit()
    before = path.read_bytes()

    assert "another program" in refusal(daemon)
    assert path.read_bytes() == before
    assert sorted(found.name for found in daemon.state_root.glob("kheish.db*")) == ["kheish.db"]


def test_a_table_that_is_gone_is_named(daemon: Daemon) -> None:
    assert daemon.terminate() == 0
    path = daemon.state_root / "kheish.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE outputs")
        connection.commit()

    line = refusal(daemon)
    assert "outputs" in line
    assert "state restore" in line
