"""Secrets that a test plants, and the search for them in whatever a daemon gave away."""

from __future__ import annotations

import base64
import json
import secrets
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, quote_plus

_FRAGMENT_CHARS = 16
"""A beginning or an end of this length is a leak as well: somebody cut a secret before showing it."""


@dataclass(frozen=True, kw_only=True)
class Planted:
    """A secret that exists nowhere else."""

    name: str
    text: str
    meaning: bytes = b""
    """What the text stands for, when it is an encoding itself."""

    @classmethod
    def make(cls, name: str, shape: str = "sk-{}") -> Planted:
        """``shape`` is what stands around the random part."""
        return cls(name=name, text=shape.replace("{}", secrets.token_hex(20)))

    @classmethod
    def key(cls, name: str) -> Planted:
        """A master key."""
        raw = secrets.token_bytes(32)
        return cls(name=name, text=base64.b64encode(raw).decode(), meaning=raw)

    @classmethod
    def signing_key(cls, path: Path) -> Planted:
        """The key that a daemon made for its audit trail."""
        text = json.loads(path.read_text())["secret_key_hex"]
        return cls(name="audit signing key", text=text, meaning=bytes.fromhex(text))

    def needles(self) -> set[bytes]:
        """Everything that would give it away."""
        parts = (self.text, self.text.strip(), self.text[:_FRAGMENT_CHARS], self.text[-_FRAGMENT_CHARS:])
        encoded = {self.meaning, self.meaning.hex().encode(), self.meaning.hex().upper().encode()} - {b""}
        return {needle for part in parts for needle in _forms(part)} | encoded


def _forms(text: str) -> Iterator[bytes]:
    raw = text.encode()
    quoted = quote(text, safe="")
    yield from (raw, raw.hex().encode(), raw.hex().upper().encode())
    yield from (quoted.encode(), quote_plus(text).encode(), quoted.lower().encode())
    for ascii_only in (True, False):
        once = json.dumps(text, ensure_ascii=ascii_only)
        yield once[1:-1].encode()
        yield json.dumps(once, ensure_ascii=ascii_only)[3:-3].encode()
    yield repr(text)[1:-1].encode()
    yield repr(raw)[2:-1].encode()
    for before in range(3):
        # Inside a longer text the first and the last character of base64 mix with the neighbours.
        encoded = base64.b64encode(bytes(before) + raw).rstrip(b"=")
        cut = encoded[-(-before * 8 // 6) : -1 if (before + len(raw)) % 3 else None]
        yield from (cut, cut.replace(b"+", b"-").replace(b"/", b"_"))


@dataclass(kw_only=True)
class Search:
    """What came out of a daemon, by place."""

    planted: list[Planted]
    places: dict[str, bytes] = field(default_factory=dict)

    def add(self, place: str, content: bytes | str) -> None:
        data = content if isinstance(content, bytes) else content.encode(errors="surrogateescape")
        self.places[place] = self.places.get(place, b"") + data + b"\n"

    def add_files(self, root: Path, *, without: frozenset[Path] = frozenset()) -> None:
        """The bytes of every file, and every value of every SQLite database among them."""
        for path in root.rglob("*"):
            if path in without or not path.is_file():
                continue
            self.add(f"file {path.relative_to(root)}", path.read_bytes())
            if path.suffix == ".db":
                self.add(f"rows of {path.relative_to(root)}", _rows(path))

    def found(self) -> list[str]:
        """One line per secret and place, with what stands around the hit."""
        hits = []
        for planted in self.planted:
            needles = planted.needles()
            for place, content in self.places.items():
                at = min((index for needle in needles if (index := content.find(needle)) >= 0), default=None)
                if at is not None:
                    hits.append(f"{planted.name} in {place}: {content[max(0, at - 80) : at + 60]!r}")
        return hits


def _rows(path: Path) -> bytes:
    # A value that spans pages is in one piece only when it is read as one.
    values: list[bytes] = []
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for row in connection.execute(f'SELECT * FROM "{table}"'):
                values += [value if isinstance(value, bytes) else str(value).encode() for value in row]
    connection.close()
    return b"\n".join(values)


def processes(pid: int) -> Mapping[int, Path]:
    """The process and everything below it, as folders of /proc."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int(folder.joinpath("stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it has ended
    family = {pid}
    while grown := {child for child, parent in parents.items() if parent in family} - family:
        family |= grown
    return {member: Path("/proc") / str(member) for member in family}
