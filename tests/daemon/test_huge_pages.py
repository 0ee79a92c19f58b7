from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kheish.daemon.huge_pages import whole_pages

MIB = 1024 * 1024
POLICY = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def mapping(
    begin: int, end: int, *, access: str = "rw-p", inode: int = 0, name: str = "", filled: float = 1.0
) -> list[str]:
    """What /proc/PID/smaps says of one, in part."""
    kib = (end - begin) // 1024
    return [
        f"{begin:x}-{end:x} {access} 00000000 00:00 {inode}    {name}".rstrip(),
        f"Size:           {kib:8} kB",
        f"Rss:            {int(kib * filled):8} kB",
        "VmFlags: rd wr mr mw me ac",
    ]


def test_only_whole_huge_pages_of_well_filled_private_memory_are_asked_for() -> None:
    smaps = [
        *mapping(1 * MIB, 7 * MIB, name="[heap]"),
        *mapping(9 * MIB, 11 * MIB),  # as large as a page, but not aligned
        *mapping(12 * MIB, 14 * MIB, filled=0.8),
        *mapping(20 * MIB, 28 * MIB, filled=0.01),  # the stack of a thread
        *mapping(30 * MIB, 40 * MIB, access="r-xp", inode=7, name="/usr/lib/libc.so"),
        *mapping(40 * MIB, 50 * MIB, access="rw-s", inode=7, name="/a folder/database-shm"),
        *mapping(50 * MIB, 60 * MIB, access="r--p"),
        *mapping(60 * MIB, 70 * MIB, name="[stack]"),
        *mapping(70 * MIB, 72 * MIB),
    ]

    assert [address // MIB for address in whole_pages(smaps)] == [2, 4, 12, 70]
    assert list(whole_pages([])) == []


@pytest.mark.skipif(sys.platform != "linux", reason="huge pages of Linux")
def test_what_moves_is_as_it_was_and_the_system_counts_it(tmp_path: Path) -> None:
    """Also with its memory closed to other processes, as a daemon has it."""
    program = """
import ctypes, mmap, os, sys
from kheish.daemon.huge_pages import move_into_huge_pages
ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
with open(os.path.join(os.fsencode(sys.argv[1]), b"not UTF-8: \\xff"), "w+b") as file:
    file.truncate(4096)
    mapped = mmap.mmap(file.fileno(), 4096)
kept = [bytes([number % 251]) * 5000 for number in range(10_000)]
moved = move_into_huge_pages()
assert all(item == bytes([number % 251]) * 5000 for number, item in enumerate(kept))
rollup = dict(line.split(":") for line in open("/proc/self/smaps_rollup").read().splitlines()[1:])
print(moved, int(rollup["AnonHugePages"].split()[0]) * 1024)
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    moved, counted = map(int, done.stdout.split())

    if not POLICY.exists() or "[never]" in POLICY.read_text():
        assert moved == 0
    assert counted >= moved
