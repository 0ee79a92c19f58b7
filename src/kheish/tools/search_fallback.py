"""The search of machines without ripgrep: a program of its own that prints what ripgrep would.

It is a process and not a thread because Python's regular expressions hold the interpreter while they match and can
take forever; a process can be killed. Only the standard library and this room's pure modules are imported.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Iterator

from kheish.tools.ignore_rules import IgnoreRules

LIFETIME_SECONDS = 60
"""Longer than any search may take: ends the process when nobody is left to kill it."""
MAX_LINE_BYTES = 1 << 20
INVALID_PATTERN = 2
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def main(base: str, pattern: str | None, max_count: int) -> int:
    """Search ``base`` (a path free of links, relative to the current folder) and print what is found."""
    signal.alarm(LIFETIME_SECONDS)
    try:
        expression = None if pattern is None else compiled(pattern)
    except re.error as error:
        sys.stderr.write(f"error: {error.msg}\n")
        return INVALID_PATTERN
    parts = tuple(name for name in base.split("/") if name not in ("", "."))
    for folder, path in _files(parts):
        shown = "/".join(path[len(parts) :])
        if expression is None:
            sys.stdout.buffer.write(os.fsencode(shown) + b"\0")
        else:
            _search(folder, path[-1], shown, expression, max_count)
    sys.stdout.buffer.flush()
    return 0


def compiled(pattern: str) -> re.Pattern[str]:
    """Compile a pattern for single lines.

    Raises:
        re.error: it is no regular expression, or it asks for a line end, which no line holds.
    """
    if _asks_for_line_end(pattern):
        raise re.error("a pattern cannot match across lines")
    return re.compile(pattern)


def _asks_for_line_end(pattern: str) -> bool:
    in_class = False
    for piece in re.findall(r"\\.|.", pattern, re.DOTALL):
        if piece in ("\n", r"\n") and not in_class:
            return True
        in_class = piece == "[" or (in_class and piece != "]")
    return False


def _files(base: tuple[str, ...]) -> Iterator[tuple[int, tuple[str, ...]]]:
    handles = [os.open(".", _FOLDER)]
    try:
        rules = IgnoreRules(handles[-1], None)
        for name in base:
            handles.append(os.open(name, _FOLDER, dir_fd=handles[-1]))
            rules = IgnoreRules(handles[-1], rules)
        yield from _walk(handles[-1], base, rules)
    finally:
        for handle in handles:
            os.close(handle)


def _walk(handle: int, at: tuple[str, ...], rules: IgnoreRules) -> Iterator[tuple[int, tuple[str, ...]]]:
    with os.scandir(handle) as listed:
        entries = sorted(listed, key=lambda entry: os.fsencode(entry.name))
    for entry in entries:
        path = (*at, entry.name)
        is_folder = entry.is_dir(follow_symlinks=False)
        if not (is_folder or entry.is_file(follow_symlinks=False)) or rules.leaves_out(path, is_folder=is_folder):
            continue
        if not is_folder:
            yield handle, path
            continue
        try:
            below = os.open(entry.name, _FOLDER, dir_fd=handle)
        except OSError:
            continue  # unreadable, or gone meanwhile
        try:
            yield from _walk(below, path, IgnoreRules(below, rules))
        finally:
            os.close(below)


def _search(folder: int, name: str, shown: str, expression: re.Pattern[str], max_count: int) -> None:
    try:
        handle = os.open(name, _FILE, dir_fd=folder)
    except OSError:
        return
    found: list[tuple[int, str]] = []
    with os.fdopen(handle, "rb") as file:
        number = 0
        while len(found) < max_count and (line := file.readline(MAX_LINE_BYTES + 1)):
            number += 1
            if b"\0" in line:
                return  # a binary file
            if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
                while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                    pass
                continue
            text = line.decode(errors="replace").removesuffix("\n").removesuffix("\r")
            if expression.search(text):
                found.append((number, text))
    shown = os.fsencode(shown).decode(errors="replace")
    for number, text in found:
        data = {"path": {"text": shown}, "lines": {"text": text}, "line_number": number}
        _print_record("match", data)
    _print_record("end", {"path": {"text": shown}, "binary_offset": None})


def _print_record(kind: str, data: dict[str, object]) -> None:
    sys.stdout.buffer.write(json.dumps({"type": kind, "data": data}).encode() + b"\n")
