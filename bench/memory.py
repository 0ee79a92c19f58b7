"""What a process holds in memory, as the system sees it: no allocator of ours or Python's is asked."""

from __future__ import annotations

import subprocess
from pathlib import Path


def resident_mb(pid: int) -> float:
    """Memory that is resident now."""
    return _of_proc(pid, "VmRSS") or _of_ps(pid)


def peak_mb(pid: int) -> float | None:
    """The most that ever was; None where the system has no /proc."""
    return _of_proc(pid, "VmHWM")


def _of_proc(pid: int, name: str) -> float | None:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    kilobytes = next(line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return int(kilobytes) / 1024


def _of_ps(pid: int) -> float:
    printed = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, check=True, text=True).stdout
    return int(printed) / 1024
