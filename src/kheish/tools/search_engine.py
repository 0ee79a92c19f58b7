"""Running a search program and reading what it finds, bounded and stoppable."""

from __future__ import annotations

import base64
import os
import re
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, cast

from kheish.core.jsonvalue import JsonObject, decode_object
from kheish.core.values import value_class
from kheish.tools.confinement import Place, Workspace, handle_path
from kheish.tools.failures import ToolFailure
from kheish.tools.ignore_rules import IgnoreRules
from kheish.tools.offload import Stop

MAX_RECORD_BYTES = 8 << 20
"""A longer line of output is skipped: it is one match in a file without line ends."""
OLDEST_RIPGREP = (13, 0)
_POLL_MS = 50
_CHUNK = 65_536
_ENVIRONMENT = {"LC_ALL": "C.UTF-8"}
"""All that the program sees: the daemon's own holds keys."""


@value_class(frozen=True, kw_only=True, slots=True)
class Match:
    """One matching line. The path is relative to the searched folder."""

    path: tuple[str, ...]
    line: int
    text: str


class SearchEngine(Protocol):
    """A way to search a folder. Results come sorted by path, folder by folder; both raise `ToolFailure`."""

    def files(self, workspace: Workspace, base: Place, stop: Stop) -> Iterator[tuple[str, ...]]:
        """Give the path of every file below ``base`` that ignore files do not exclude."""
        ...

    def matches(self, workspace: Workspace, base: Place, pattern: str, stop: Stop, *, per_file: int) -> Iterator[Match]:
        """Give the lines matching a regular expression, at most ``per_file`` of each file."""
        ...


def search_engine() -> SearchEngine:
    """Return ripgrep when a usable one is installed, else our own search."""
    found = shutil.which("rg")
    return PythonSearch() if found is None or not _recent(found) else Ripgrep(found)


def _recent(program: str) -> bool:
    try:
        told = subprocess.run(  # noqa: S603 - a program that was looked up, and a fixed argument
            [program, "--version"], capture_output=True, text=True, timeout=5, check=True, env=_ENVIRONMENT
        )
    except (OSError, subprocess.SubprocessError):
        return False
    version = re.match(r"ripgrep (\d+)\.(\d+)", told.stdout)
    return version is not None and tuple(map(int, version.groups())) >= OLDEST_RIPGREP


class Ripgrep:
    """Searches with ripgrep; the rules of folders above the base, which it must not look for, are applied after it."""

    _COMMON = (
        "--no-config",
        "--color=never",
        "--sort=path",
        "--no-messages",
        "--no-ignore-messages",
        "--no-require-git",
        "--no-ignore-global",
        "--no-ignore-exclude",
        "--no-ignore-parent",
    )
    _GREP = ("--json", "--no-mmap", "--encoding=none", "--crlf", "--engine=default")

    def __init__(self, program: str) -> None:
        self._program = program

    def files(self, workspace: Workspace, base: Place, stop: Stop) -> Iterator[tuple[str, ...]]:
        kept = _AboveBase(workspace, base)
        command = [self._program, *self._COMMON, "--files", "--null", "--", "./"]
        for path in _paths(_output(workspace, base, command, b"\0", stop)):
            if kept.keeps(path):
                yield path

    def matches(self, workspace: Workspace, base: Place, pattern: str, stop: Stop, *, per_file: int) -> Iterator[Match]:
        kept = _AboveBase(workspace, base)
        count = f"--max-count={per_file}"
        command = [self._program, *self._COMMON, *self._GREP, count, "-e", pattern, "--", "./"]
        for match in _matches(_output(workspace, base, command, b"\n", stop)):
            if kept.keeps(match.path):
                yield match


class PythonSearch:
    """Searches with `search_fallback` in a process of its own."""

    _START = "import sys; sys.path.insert(0, sys.argv[1]); from kheish.tools.search_fallback import main; "

    def files(self, workspace: Workspace, base: Place, stop: Stop) -> Iterator[tuple[str, ...]]:
        command = self._command("sys.exit(main(sys.argv[2], None, 0))", base.relative)
        return _paths(self._output(workspace, base, command, b"\0", stop))

    def matches(self, workspace: Workspace, base: Place, pattern: str, stop: Stop, *, per_file: int) -> Iterator[Match]:
        call = "sys.exit(main(sys.argv[2], sys.argv[3], int(sys.argv[4])))"
        command = self._command(call, base.relative, pattern, str(per_file))
        return _matches(self._output(workspace, base, command, b"\n", stop))

    def _command(self, call: str, *arguments: str) -> list[str]:
        packages = str(Path(__file__).parents[2])
        return [sys.executable, "-I", "-S", "-X", "utf8", "-c", self._START + call, packages, *arguments]

    def _output(
        self, workspace: Workspace, base: Place, command: list[str], separator: bytes, stop: Stop
    ) -> Iterator[bytes]:
        with workspace.directory(base.parts):
            pass  # says what is wrong with the base
        return _output(workspace, Place(root=workspace.root, parts=()), command, separator, stop)


class _AboveBase:
    """Ignore rules from the root down to every folder that holds a result."""

    def __init__(self, workspace: Workspace, base: Place) -> None:
        self._workspace = workspace
        self._base = base.parts
        self._rules: dict[tuple[str, ...], IgnoreRules] = {}

    def keeps(self, path: tuple[str, ...]) -> bool:
        """Say whether a result below the base stays; with the root as base ripgrep has seen every rule itself."""
        if not self._base:
            return True
        full = (*self._base, *path)
        for end in range(len(self._base) + 1, len(full) + 1):
            try:
                rules = self._of(full[: end - 1])
            except ToolFailure:
                return False  # gone meanwhile
            if rules.leaves_out(full[:end], is_folder=end < len(full)):
                return False
        return True

    def _of(self, folder: tuple[str, ...]) -> IgnoreRules:
        known = self._rules.get(folder)
        if known is None:
            above = self._of(folder[:-1]) if folder else None
            with self._workspace.directory(folder) as handle:
                known = self._rules[folder] = IgnoreRules(handle, above)
        return known


def _paths(records: Iterator[bytes]) -> Iterator[tuple[str, ...]]:
    for record in records:
        yield _parts(os.fsdecode(record))


def _matches(records: Iterator[bytes]) -> Iterator[Match]:
    """Read ripgrep's JSON; the matches of a file count only when it turns out to be no binary file."""
    pending: list[Match] = []
    for record in records:
        line = decode_object(record)
        data = cast("JsonObject", line["data"])
        if line["type"] == "match":
            path, text = _text(data["path"]), _text(data["lines"])
            number = cast("int", data["line_number"])
            pending.append(Match(path=_parts(path), line=number, text=text.removesuffix("\n").removesuffix("\r")))
        elif line["type"] == "end":
            if data["binary_offset"] is None:
                yield from pending
            pending = []


def _text(value: object) -> str:
    """Return a text of ripgrep's JSON, which sends what is not UTF-8 as base64."""
    holder = cast("dict[str, str]", value)
    return holder["text"] if "text" in holder else base64.b64decode(holder["bytes"]).decode(errors="replace")


def _parts(path: str) -> tuple[str, ...]:
    return tuple(path.removeprefix("./").split("/"))


def _output(
    workspace: Workspace, place: Place, command: Sequence[str], separator: bytes, stop: Stop
) -> Iterator[bytes]:
    """Run ``command`` in a folder opened without following links and give its records."""
    with _running(workspace, place, command) as process:
        yield from _records(_chunks(process, stop), separator)
        _check_end(process)


@contextmanager
def _running(workspace: Workspace, place: Place, command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    with workspace.directory(place.parts) as handle:
        process = subprocess.Popen(  # noqa: S603 - an argument list of ours; the pattern is one argument
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=handle_path(handle),
            env=_ENVIRONMENT,
        )
    with process:
        try:
            yield process
        finally:
            process.kill()


def _chunks(process: subprocess.Popen[bytes], stop: Stop) -> Iterator[bytes]:
    assert process.stdout is not None
    output = process.stdout.fileno()
    poll = select.poll()
    poll.register(output, select.POLLIN)
    while True:
        stop.check()
        if poll.poll(_POLL_MS):
            chunk = os.read(output, _CHUNK)
            if not chunk:
                return
            yield chunk


def _records(chunks: Iterator[bytes], separator: bytes) -> Iterator[bytes]:
    rest = bytearray()
    skipping = False
    for chunk in chunks:
        *whole, tail = chunk.split(separator)
        for piece in whole:
            if not skipping:
                yield bytes(rest) + piece
            rest.clear()
            skipping = False
        rest += tail
        if len(rest) > MAX_RECORD_BYTES:
            rest.clear()
            skipping = True


def _check_end(process: subprocess.Popen[bytes]) -> None:
    """Raise what went wrong. Both programs end with 2 and say why when the pattern is wrong."""
    assert process.stderr is not None
    said = process.stderr.read(_CHUNK).decode(errors="replace")
    status = process.wait()
    reasons = re.findall(r"^error: (.+)$", said, re.MULTILINE)
    if status == 2 and said:
        raise ToolFailure(f"invalid regular expression: {reasons[-1] if reasons else said.strip()[:200]}")
    if status not in (0, 1, 2):
        raise ToolFailure("the search did not finish")
