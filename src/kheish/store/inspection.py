"""A look at the database's files before SQLite opens them: damage that SQLite would pass over in silence.

SQLite ignores a log whose header or frames do not add up, for that is what a power cut leaves of a write that was never
answered. The same rule throws away commits that were answered when the log is damaged or cut later. What the killed
process left in the log's index tells the two apart. The formats are those of https://sqlite.org/fileformat2.html and
https://sqlite.org/walformat.html.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from kheish.core.values import value_class
from kheish.store.snapshot import reading

_MAGIC = b"SQLite format 3\0"
_HEADER_BYTES = 100
_LOG_HEADER_BYTES = 32
_FRAME_HEADER_BYTES = 24
_LOG_MAGIC = 0x377F0682
"""With the lowest bit set the checksums are big-endian."""
_INDEX_HEADER_BYTES = 48


def find_damage(path: Path) -> str | None:
    """Say what is wrong with the files of the database ``path``; None when nothing can be seen from outside.

    Nothing is changed, and a second look says the same. A daemon may be at work on the database.

    Raises:
        OSError: a file cannot be read.
        sqlite3.Error: SQLite cannot open it for reading.
    """
    header, log = _head(path, _HEADER_BYTES), _head(_log(path), _LOG_HEADER_BYTES)
    if not header:
        return "it is empty or missing, and its log is not" if log else None
    if path.is_dir() or not header.startswith(_MAGIC):
        return "it is no database"
    if len(log) < _LOG_HEADER_BYTES:
        return _cut(path, header)
    if log.count(0) < _LOG_HEADER_BYTES and not _is_log(log):
        return "the header of its log is damaged"
    return _lost_commits(path, log)


def tables(path: Path) -> set[str]:
    """The tables of a database that must not be changed yet; none when there is no database.

    Raises:
        sqlite3.Error: SQLite cannot open it for reading.
    """
    if not _head(path, 1):
        return set()
    with reading(path) as connection:
        return {row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}


@value_class(frozen=True, kw_only=True, slots=True)
class _Index:
    """What a process on this database knew of the log."""

    header: bytes
    salts: bytes
    frames: int
    """Committed, and synced before they were counted here."""
    page_bytes: int


def _lost_commits(path: Path, log: bytes) -> str | None:
    known = _index(path)
    if known is None or known.salts != _salts(log) or known.frames == 0:
        return None
    needed = _LOG_HEADER_BYTES + known.frames * (_FRAME_HEADER_BYTES + known.page_bytes)
    if _log(path).stat().st_size < needed:
        return f"its log is cut: {known.frames} pages were committed to it, and not all of them are there"
    # Reading makes SQLite go through the log and count again.
    with reading(path):
        found = _index(path)
    if found is None or found.salts != known.salts or found.frames >= known.frames:
        return None
    _put_back(path, known)
    return f"its log is damaged: {known.frames} pages were committed to it, and {found.frames} can be read"


def _put_back(path: Path, known: _Index) -> None:
    """The next look must find the same: an index that was counted again would say that nothing is missing."""
    with _index_path(path).open("r+b") as file:
        file.write(known.header)


def _cut(path: Path, header: bytes) -> str | None:
    """Without a log the file is all there is, and it says how long it must be."""
    if len(header) < _HEADER_BYTES:
        return "it is cut"
    page_bytes, changed, pages, sized = (
        struct.unpack_from(">H", header, 16)[0],
        header[24:28],
        struct.unpack_from(">I", header, 28)[0],
        header[92:96],
    )
    needed = pages * _page_bytes(page_bytes)
    size = path.stat().st_size
    return f"it is cut: {size} of {needed} bytes are there" if changed == sized and size < needed else None


def _is_log(header: bytes) -> bool:
    (magic,) = struct.unpack_from(">I", header)
    if magic not in (_LOG_MAGIC, _LOG_MAGIC | 1):
        return False
    first = second = 0
    words = struct.unpack_from((">" if magic & 1 else "<") + "6I", header)
    for one, other in zip(words[::2], words[1::2], strict=True):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + other + first) & 0xFFFFFFFF
    return struct.unpack_from(">2I", header, 24) == (first, second)


def _salts(log: bytes) -> bytes:
    return log[16:24]


def _index(path: Path) -> _Index | None:
    content = _head(_index_path(path), 2 * _INDEX_HEADER_BYTES)
    first, second = content[:_INDEX_HEADER_BYTES], content[_INDEX_HEADER_BYTES:]
    # Two copies: one that is being changed is in doubt. Byte 12 says that the index was made.
    if len(second) < _INDEX_HEADER_BYTES or first != second or not first[12]:
        return None
    page_bytes, frames = struct.unpack_from("=HI", first, 14)
    return _Index(header=content, salts=first[32:40], frames=frames, page_bytes=_page_bytes(page_bytes))


def _page_bytes(stored: int) -> int:
    """A size that does not fit its two bytes is stored as 1."""
    return 65536 if stored == 1 else stored


def _log(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def _index_path(path: Path) -> Path:
    return path.with_name(path.name + "-shm")


def _head(path: Path, size: int) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    try:
        return _MAGIC if path.is_dir() else os.read(descriptor, size)
    finally:
        os.close(descriptor)
