"""The state commands, as an operator types them, beside a daemon that works."""

from __future__ import annotations

import json
import os
import pty
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from kheish.store.blobs import BlobStore
from tests.e2e.daemon_process import DEADLINE_S, Daemon, wait_for

pytestmark = pytest.mark.e2e


def cli(daemon: Daemon, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kheish", *words]
    return subprocess.run(command, env=daemon.env, capture_output=True, text=True, timeout=3 * DEADLINE_S)


def answer(daemon: Daemon, *words: str) -> Any:
    done = cli(daemon, *words)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def root(daemon: Daemon, place: str | None = None) -> tuple[str, str]:
    return "--state-root", str(place or daemon.state_root)


def test_a_backup_of_a_daemon_under_load_is_whole_and_starts(daemon: Daemon, tmp_path: Path) -> None:
    ended = threading.Event()
    accepted: list[str] = []
    for number in range(4):
        daemon.session(f"s{number}")

    def submit(number: int) -> None:
        while not ended.is_set():
            accepted.append(daemon.submit(f"s{number}"))

    clients = [threading.Thread(target=submit, args=(number,)) for number in range(4)]
    for client in clients:
        client.start()
    try:
        wait_for(lambda: len(accepted) > 20, "no runs were accepted")
        target = str(tmp_path / "backup")
        before = len(accepted)
        answer(daemon, "state", "backup", target, *root(daemon))
        assert answer(daemon, "state", "verify", *root(daemon))["findings"] == []
        assert len(accepted) > before
    finally:
        ended.set()
        for client in clients:
            client.join()
    daemon.stop()
    answer(daemon, "state", "restore", target, *root(daemon, str(tmp_path / "fresh")))
    assert answer(daemon, "state", "verify", *root(daemon, str(tmp_path / "fresh")))["findings"] == []
    daemon.state_root = tmp_path / "fresh"
    daemon.start()
    for run_id in accepted[:before]:
        assert daemon.wait(run_id)["status"] == "completed"


def test_a_backup_killed_in_the_middle_goes_on(daemon: Daemon, tmp_path: Path) -> None:
    daemon.session()
    daemon.stop()
    blobs = BlobStore(daemon.state_root / "blobs")
    for number in range(200):
        blobs.put(os.urandom(20_000) + bytes([number]))
    target = tmp_path / "backup"
    words = ["state", "backup", str(target), *root(daemon)]
    process = subprocess.Popen([sys.executable, "-m", "kheish", *words], env=daemon.env)
    wait_for(lambda: len(list(target.glob("blobs/*/*"))) > 20, "the backup did not begin")
    process.send_signal(signal.SIGKILL)
    process.wait(DEADLINE_S)
    refused = cli(daemon, "state", "restore", str(target), *root(daemon, str(tmp_path / "fresh")))
    report = answer(daemon, *words)
    answer(daemon, "state", "restore", str(target), *root(daemon, str(tmp_path / "fresh")))

    assert (refused.returncode, "no finished backup" in refused.stderr) == (2, True)
    assert report["blobs_already_there"] > 0
    assert answer(daemon, "state", "verify", *root(daemon, str(tmp_path / "fresh")))["checked"]["blobs"] == 200


def test_damage_is_an_exit_status_and_a_report(daemon: Daemon) -> None:
    daemon.session()
    assert daemon.terminate() == 0
    content = bytearray((daemon.state_root / "kheish.db").read_bytes())
    content[4096 : 4096 + 200] = b"\xa5" * 200
    (daemon.state_root / "kheish.db").write_bytes(content)
    done = cli(daemon, "state", "verify", *root(daemon))

    assert done.returncode == 1
    assert json.loads(done.stdout)["ok"] is False
    assert "errors found" in done.stderr


def test_offline_commands_refuse_a_state_that_is_in_use(daemon: Daemon, tmp_path: Path) -> None:
    daemon.session("s")
    vacuum = cli(daemon, "state", "vacuum", *root(daemon))
    of_session = cli(daemon, "sessions", "vacuum", "s", *root(daemon))
    answer(daemon, "state", "backup", str(tmp_path / "b"), *root(daemon))
    restore = cli(daemon, "state", "restore", str(tmp_path / "b"), "--replace", *root(daemon))

    for done in (vacuum, of_session, restore):
        assert (done.returncode, "daemon.lock" in done.stderr) == (6, True), done.stderr
    daemon.stop()
    report = answer(daemon, "sessions", "vacuum", "s", *root(daemon))
    assert report["session_id"] == "s"
    again = cli(daemon, "state", "vacuum", *root(daemon))
    assert (again.returncode, "earlier vacuum" in again.stderr) == (2, True)


def test_an_export_without_a_damaged_session_says_so(daemon: Daemon, tmp_path: Path) -> None:
    for session in ("good", "bad"):
        daemon.session(session)
        daemon.wait(daemon.submit(session))
    assert daemon.terminate() == 0
    with closing(sqlite3.connect(daemon.state_root / "kheish.db", isolation_level=None)) as connection:
        connection.execute("UPDATE journal SET body = 'x' WHERE session_id = 'bad' AND position = 1")
    printed = cli(daemon, "state", "export", *root(daemon))
    folder = cli(daemon, "state", "export", "--folder", str(tmp_path / "out"), *root(daemon))

    assert {json.loads(line)["session_id"] for line in printed.stdout.splitlines()} == {"good"}
    assert (printed.returncode, "left out: bad" in printed.stderr) == (1, True)
    assert (folder.returncode, "left out: bad" in folder.stderr) == (1, True)
    assert json.loads(folder.stdout)["sessions"] == 1
    assert len(list((tmp_path / "out" / "runs" / "__safe").iterdir())) == 1


def test_a_terminal_sees_how_far_a_command_is_and_its_report_stays_apart(daemon: Daemon, tmp_path: Path) -> None:
    daemon.session()
    daemon.stop()
    for words in (("verify",), ("backup", str(tmp_path / "b")), ("export", "--to", str(tmp_path / "e")), ("vacuum",)):
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "kheish", "state", *words, *root(daemon)]
        done = subprocess.run(command, env=daemon.env, stdout=subprocess.PIPE, stderr=theirs, timeout=3 * DEADLINE_S)
        os.close(theirs)
        shown = os.read(ours, 65536).decode()
        os.close(ours)

        assert done.returncode == 0, shown
        assert isinstance(json.loads(done.stdout), dict)
        assert f"{words[0]}: " in shown


def test_an_export_goes_to_a_new_file_or_to_standard_output(daemon: Daemon, tmp_path: Path) -> None:
    daemon.session("s")
    daemon.wait(daemon.submit("s"))
    target = tmp_path / "out.jsonl"
    report = answer(daemon, "state", "export", "--to", str(target), *root(daemon))
    again = cli(daemon, "state", "export", "--to", str(target), *root(daemon))
    printed = cli(daemon, "state", "export", "--session", "s", *root(daemon))

    assert len(target.read_text().splitlines()) == report["lines"]
    assert {json.loads(line)["version"] for line in printed.stdout.splitlines()} == {2}
    assert (again.returncode, "exists already" in again.stderr) == (2, True)
