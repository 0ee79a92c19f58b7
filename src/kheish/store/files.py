"""Files and folders that must be there after a power cut, and be nobody else's."""

from __future__ import annotations

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Have the kernel write a file, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def private_folder(path: Path) -> None:
    """Make a folder and what is missing above it, for their owner only."""
    if not path.is_dir():
        private_folder(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
