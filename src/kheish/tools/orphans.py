"""Process groups of tools that outlived the daemon that started them."""

from __future__ import annotations

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


def process_start_time(pid: int) -> str | None:
    """When the process started, in the platform's own words; None when there is no such process."""
    if _HAS_PROC:
        fields = _stat(pid)
        return None if fields is None else fields[19]
    found = subprocess.run([_PS, "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)  # noqa: S603  # fixed program, a number
    return found.stdout.strip() or None


def kill_orphans(facts: JsonObject) -> int:
    """Kill what survives of the process group an intent recorded; returns how many processes were killed.

    A group whose leader has another start time is somebody else's: the kernel reused the number. A process that
    began a session of its own is not found. Blocking.
    """
    pgid, started = facts.get("pgid"), facts.get("start_time")
    if not isinstance(pgid, int) or pgid <= 1:
        return 0
    now = process_start_time(pgid)
    if now is not None and now != started:
        return 0
    members = _members(pgid)
    if not members:
        return 0
    try:
        os.killpg(pgid, signal.SIGKILL)
    except ProcessLookupError:
        return 0
    for _ in range(_POLLS):
        if not _members(pgid):
            break
        time.sleep(_POLL_S)
    return len(members)


def _members(pgid: int) -> list[int]:
    """Living processes of the group. A kernel gives no new process a number that a living group still bears."""
    if not _HAS_PROC:
        found = subprocess.run([_PS, "-axo", "pid=,pgid=,stat="], capture_output=True, text=True, check=False)  # noqa: S603  # fixed program
        rows = [line.split() for line in found.stdout.splitlines()]
        return [int(row[0]) for row in rows if len(row) > 2 and row[1] == str(pgid) and not row[2].startswith("Z")]
    members = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        fields = _stat(int(entry.name))
        if fields is not None and fields[2] == str(pgid) and fields[0] not in ("Z", "X"):
            members.append(int(entry.name))
    return members


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/<pid>/stat after the command: state is [0], group [2], start time in ticks [19]."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()
