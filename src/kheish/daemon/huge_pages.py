"""What the start made, in huge pages, where the system has them: the processor finds its way in it faster.

Linux from 6.1 on moves memory into huge pages when it is asked to (`MADV_COLLAPSE`, see madvise(2)); that is no lasting
setting, and touches nothing that the process maps later.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

_MADV_COLLAPSE = 25
_HUGE = 2 * 1024 * 1024
"""Bytes, of the usual processors; where it is another size, the system refuses and nothing happens."""
_POLICY = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_SMAPS = Path("/proc/self/smaps")
_FILLED = 0.75


def move_into_huge_pages() -> int:
    """Move what is in memory now. Return how many bytes moved; 0 where that cannot be, or the operator wants none."""
    if sys.platform != "linux":
        return 0
    try:
        if "[never]" in _POLICY.read_text():
            return 0
        addresses = list(whole_pages(_SMAPS.read_text(errors="replace").splitlines()))
        madvise = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return 0
    moved = 0
    for address in addresses:
        # One at a time: the rest of a range may go where one page of it does not.
        refused = madvise(ctypes.c_void_p(address), ctypes.c_size_t(_HUGE), _MADV_COLLAPSE)
        moved += 0 if refused else _HUGE
    return moved


def whole_pages(smaps: Iterable[str]) -> Iterator[int]:
    """Where huge pages would begin in private memory that is well filled: what /proc/PID/smaps tells of.

    A stack is not: what is free of it would take memory.
    """
    begin = end = 0
    for line in smaps:
        field, *values = line.split(maxsplit=5)
        if field == "Rss:" and int(values[0]) * 1024 >= (end - begin) * _FILLED:
            yield from range(-(-begin // _HUGE) * _HUGE, end - _HUGE + 1, _HUGE)
        elif not field.endswith(":"):
            begin, end = (int(edge, 16) for edge in field.split("-")) if _is_ours(values) else (0, 0)


def _is_ours(values: list[str]) -> bool:
    """Whether a mapping is heap or anonymous memory that is written to."""
    access, _, _, inode, *name = values
    return access == "rw-p" and inode == "0" and name in ([], ["[heap]"])
