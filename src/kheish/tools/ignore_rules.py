"""Which files a search leaves out: nested `.rgignore`, `.ignore` and `.gitignore` files, as ripgrep reads them."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from kheish.core.values import value_class
from kheish.tools.globs import BadGlob, PathGlob

IGNORE_FILES = (".rgignore", ".ignore", ".gitignore")
"""From the strongest to the weakest: a rule of a stronger kind wins wherever its file lies."""
MAX_IGNORE_FILE_BYTES = 1 << 20
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@value_class(frozen=True, kw_only=True, slots=True)
class _Rule:
    glob: PathGlob
    keeps: bool
    folders_only: bool


class IgnoreRules:
    """The rules that hold in one folder: its own files', and those of the folders above it up to the root."""

    def __init__(self, handle: int, above: IgnoreRules | None) -> None:
        """Read the ignore files of the open folder ``handle``."""
        self._above = above
        self._depth: int = 0 if above is None else above._depth + 1
        self._files = {name: _parsed(_text(name, handle)) for name in IGNORE_FILES}
        self._repository = _exists(".git", handle)

    def leaves_out(self, parts: Sequence[str], *, is_folder: bool) -> bool:
        """Say whether the entry of this folder at ``parts`` (from the root) is skipped."""
        verdict = self._verdict(parts, is_folder)
        return parts[-1].startswith(".") if verdict is None else verdict

    def _verdict(self, parts: Sequence[str], is_folder: bool) -> bool | None:
        for name in IGNORE_FILES:
            folder: IgnoreRules | None = self
            while folder is not None:
                below = parts[folder._depth :]
                for rule in reversed(folder._files[name]):
                    if (is_folder or not rule.folders_only) and rule.glob.matches(below):
                        return not rule.keeps
                # A repository inside another does not obey the outer one's .gitignore.
                folder = None if name == ".gitignore" and folder._repository else folder._above
        return None


def _parsed(text: str) -> list[_Rule]:
    rules = []
    for line in text.split("\n"):
        rule = _rule(line.removesuffix("\r"))
        if rule is not None:
            rules.append(rule)
    return rules


def _rule(line: str) -> _Rule | None:
    pattern = line if line.endswith("\\ ") else line.rstrip()
    if not pattern or pattern.startswith("#"):
        return None
    keeps = pattern.startswith("!")
    if keeps:
        pattern = pattern[1:]
    try:
        glob = PathGlob(pattern)
    except BadGlob:
        return None
    return _Rule(glob=glob, keeps=keeps, folders_only=pattern.endswith("/"))


def _text(name: str, handle: int) -> str:
    try:
        file = os.open(name, _FLAGS, dir_fd=handle)
    except OSError:
        return ""
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return ""
        return os.fsdecode(os.read(file, MAX_IGNORE_FILE_BYTES)).removeprefix("\ufeff")
    except OSError:
        return ""
    finally:
        os.close(file)


def _exists(name: str, handle: int) -> bool:
    try:
        os.stat(name, dir_fd=handle, follow_symlinks=False)
    except OSError:
        return False
    return True
