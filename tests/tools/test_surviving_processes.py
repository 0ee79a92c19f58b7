from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kheish.core.jsonvalue import JsonObject
from kheish.tools.orphans import kill_orphans, process_start_time

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

DEADLINE_S = 10.0


@contextlib.contextmanager
def leader(script: str) -> Iterator[tuple[subprocess.Popen[str], JsonObject, str]]:
    """A session of its own, what an intent would have recorded of it, and the first line it printed."""
    process = subprocess.Popen(
        ["/bin/bash", "-c", script], start_new_session=True, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        facts: JsonObject = {
            "pid": process.pid,
            "pgid": process.pid,
            "start_time": process_start_time(process.pid),
        }
        printed = process.stdout.readline().strip()
        try:
            yield process, facts, printed
        finally:
            process.kill()
            if printed:
                kill_if_there(int(printed))


@contextlib.contextmanager
def survivor() -> Iterator[tuple[int, JsonObject]]:
    """A process whose session's leader has ended, and what was recorded of the leader."""
    with leader("sleep 600 & echo $!; read") as (process, facts, printed):
        process.kill()
        process.wait()
        yield int(printed), facts


def kill_if_there(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while alive(pid):
        assert time.monotonic() < deadline, f"process {pid} survived"
        time.sleep(0.01)


def test_the_leader_and_its_children_are_killed_and_counted() -> None:
    with leader("sleep 600 & echo $!; read") as (process, facts, printed):
        assert kill_orphans(facts) == 2
        assert process.wait(DEADLINE_S) == -signal.SIGKILL
        wait_until_gone(int(printed))
        assert kill_orphans(facts) == 0


def test_what_is_left_of_a_session_is_killed_after_its_leader_ended() -> None:
    with survivor() as (pid, facts):
        assert kill_orphans(facts) == 1
        wait_until_gone(pid)


def test_a_job_with_a_group_of_its_own_is_killed_with_its_session() -> None:
    with leader("set -m; sleep 600 & echo $!; read") as (process, facts, printed):
        job = int(printed)
        assert os.getpgid(job) == job != process.pid

        assert kill_orphans(facts) == 2
        wait_until_gone(job)


def test_a_process_that_began_its_own_session_is_not_found() -> None:
    with leader("setsid sleep 600 & echo $!; read") as (process, facts, printed):
        own = int(printed)
        deadline = time.monotonic() + DEADLINE_S
        while os.getsid(own) != own:
            assert time.monotonic() < deadline, "setsid did not begin a session"

        assert kill_orphans(facts) == 1
        assert process.wait(DEADLINE_S) == -signal.SIGKILL
        assert alive(own)


@pytest.mark.parametrize("part", range(3), ids=["boot", "namespace", "ticks"])
def test_a_leader_recorded_elsewhere_or_earlier_is_somebody_else(part: int) -> None:
    with leader("echo; read") as (process, facts, _):
        assert kill_orphans({**facts, "start_time": with_other_part(facts, part)}) == 0
        assert process.poll() is None


@pytest.mark.parametrize("part", range(2), ids=["boot", "namespace"])
def test_a_session_without_leader_is_left_alone_after_a_new_start_of_the_machine(part: int) -> None:
    with survivor() as (pid, facts):
        assert kill_orphans({**facts, "start_time": with_other_part(facts, part)}) == 0
        assert alive(pid)


def with_other_part(facts: JsonObject, part: int) -> str:
    parts = str(facts["start_time"]).split(" ")
    assert len(parts) == 3
    parts[part] = "1"
    return " ".join(parts)


def test_names_of_processes_that_are_not_utf8_do_not_matter() -> None:
    name = "printf 'caf\\303) \\351' > /proc/$$/comm; echo; read"
    with leader(name) as (named, named_facts, _), leader("echo; read") as (process, facts, _):
        with pytest.raises(UnicodeDecodeError):
            Path(f"/proc/{named.pid}/stat").read_text(encoding="utf-8")

        assert kill_orphans(facts) == 1
        assert process.wait(DEADLINE_S) == -signal.SIGKILL
        assert kill_orphans({**named_facts, "start_time": process_start_time(named.pid)}) == 1


_AS_ANOTHER_USER = """
import os, sys
from kheish.tools.orphans import kill_orphans, process_start_time
os.setuid(65534)
leader = int(sys.argv[1])
print(kill_orphans({"pgid": leader, "start_time": process_start_time(leader)}))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_processes_of_another_user_are_left_alone() -> None:
    with leader("echo; read") as (process, _, _):
        asked = subprocess.run(
            [sys.executable, "-c", _AS_ANOTHER_USER, str(process.pid)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": "src"},
        )
        assert (asked.stdout, process.poll()) == ("0\n", None)


_ITSELF = """
import os
from kheish.tools.orphans import kill_orphans, process_start_time
for number in (os.getpgrp(), os.getsid(0)):
    print(kill_orphans({"pgid": number, "start_time": process_start_time(number)}))
"""


def test_the_daemon_never_kills_itself() -> None:
    asked = subprocess.run(
        [sys.executable, "-c", _ITSELF],
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": "src"},
    )

    assert (asked.returncode, asked.stdout) == (0, "0\n0\n")


@pytest.mark.parametrize("facts", [{}, {"pgid": None, "start_time": "1"}, {"pgid": 1, "start_time": "1"}])
def test_an_intent_without_a_process_of_its_own_kills_nothing(facts: JsonObject) -> None:
    assert kill_orphans(facts) == 0
