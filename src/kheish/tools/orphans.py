"""Process groups of tools that outlived the daemon that started them."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from kheish.core.jsonvalue import JsonObject

_POLLS = 20
_POLL_S = 0.05
_PS = "/bin/ps"
_HAS_PROC = sys.platform == "linux"
_STATE, _PARENT, _SESSION, _START_TICKS = 0, 1, 3, 19
"""Fields of /proc/<pid>/stat, counted after the command's name."""


def process_start_time(pid: int) -> str | None:
    """When the process started, in the platform's own words; None when there is no such process.

    On Linux the words include the boot and the process namespace, so that they never recur.
    """
    if _HAS_PROC:
        fields = _stat(pid)
        return None if fields is None else f"{_numbering()} {fields[_START_TICKS]}"
    found = subprocess.run([_PS, "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)  # noqa: S603  # fixed program, a number
    return found.stdout.strip() or None


def kill_orphans(facts: JsonObject) -> int:
    """Kill what survives of the session an intent recorded; returns how many processes were killed.

    A leader with another start time is somebody else's: the kernel reused the number. So is a session without a
    leader after the machine, or the container, was started anew. A process that began a session of its own is not
    found. Blocking.
    """
    leader, started = facts.get("pgid"), facts.get("start_time")
    if not isinstance(leader, int) or leader <= 1 or not isinstance(started, str):
        return 0
    if leader in (os.getpgrp(), os.getsid(0)):
        return 0
    now = process_start_time(leader)
    if (now is not None and now != started) or (_HAS_PROC and not started.startswith(f"{_numbering()} ")):
        return 0
    killed: set[int] = set()
    for _ in range(_POLLS):
        members = _members(leader)
        if not members:
            break
        killed.update(_killed(members))
        time.sleep(_POLL_S)
    return len(killed)


def kill_children() -> None:
    """Kill the sessions that this process has started, before it ends without asking them. Blocking, for moments."""
    own, table = os.getpid(), _table()
    leaders = {pid for pid, parent, session in table if parent == own and session == pid}
    _killed([pid for pid, _, session in table if session in leaders])


def _table() -> list[tuple[int, int, int]]:
    """Number, parent and session of every process; without /proc, its group in place of the session."""
    if not _HAS_PROC:
        found = subprocess.run([_PS, "-axo", "pid=,ppid=,pgid="], capture_output=True, text=True, check=False)  # noqa: S603  # fixed program
        rows = [line.split() for line in found.stdout.splitlines()]
        return [(int(row[0]), int(row[1]), int(row[2])) for row in rows if len(row) == 3]
    table = []
    for entry in Path("/proc").iterdir():
        fields = _stat(int(entry.name)) if entry.name.isdecimal() else None
        if fields is not None:
            table.append((int(entry.name), int(fields[_PARENT]), int(fields[_SESSION])))
    return table


def _killed(members: list[int]) -> list[int]:
    """Kill each; those of another user and those that are gone already are left out."""
    killed = []
    for pid in members:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
    return killed


def _members(leader: int) -> list[int]:
    """Living processes of the leader's session; without /proc, of its group.

    A kernel gives no new process a number that a living session or group still bears.
    """
    if not _HAS_PROC:
        found = subprocess.run([_PS, "-axo", "pid=,pgid=,stat="], capture_output=True, text=True, check=False)  # noqa: S603  # fixed program
        rows = [line.split() for line in found.stdout.splitlines()]
        return [int(row[0]) for row in rows if len(row) > 2 and row[1] == str(leader) and not row[2].startswith("Z")]
    members = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        fields = _stat(int(entry.name))
        if fields is not None and str(leader) == fields[_SESSION] and fields[_STATE] not in ("Z", "X"):
            members.append(int(entry.name))
    return members


@functools.cache
def _numbering() -> str:
    """Names the space in which process numbers and start times mean something: this boot, this namespace."""
    boot, namespace = "", ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with contextlib.suppress(OSError):
        namespace = str(Path("/proc/self/ns/pid").readlink())
    return f"{boot} {namespace}"


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/<pid>/stat after the command, whose name may be any bytes, cut anywhere."""
    try:
        content = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    return content[content.rindex(b")") + 2 :].decode("ascii").split()
