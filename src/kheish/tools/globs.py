"""Path globs as ignore files and ripgrep know them. Pure, and never slower than path length times pattern length.

`?` and `*` stay inside one name, `**` spans folders, `[a-z]` and `[!a-z]` are classes, `{a,b}` are alternatives and
`\\` takes a character literally. A pattern without a slash matches at any depth; one with a slash, from the base.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

MAX_ALTERNATIVES = 256


class BadGlob(ValueError):
    """The pattern cannot be read; the text says why."""


class PathGlob:
    """One compiled pattern.

    Raises:
        BadGlob: a class or an alternative is not closed, a range is reversed, or there are too many alternatives.
    """

    def __init__(self, pattern: str) -> None:
        anchored = "/" in pattern.removesuffix("/")
        self._choices = [_compiled(choice, anchored=anchored) for choice in _alternatives(pattern)]

    def matches(self, parts: Sequence[str]) -> bool:
        """Say whether the path made of ``parts`` matches as a whole."""
        return any(_matches(names, parts) for names in self._choices)


_Name = re.Pattern[str] | None
"""How one name is matched; None stands for any number of folders."""


def _matches(names: Sequence[_Name], parts: Sequence[str]) -> bool:
    reached = _skipping({0}, names)
    for part in parts:
        following: set[int] = set()
        for at in reached:
            if at == len(names):
                continue
            name = names[at]
            if name is None:
                following.add(at)
                if at == len(names) - 1:
                    following.add(at + 1)  # a pattern that ends in ** wants at least one name there
            elif name.match(part):
                following.add(at + 1)
        reached = _skipping(following, names)
    return len(names) in reached


def _skipping(reached: set[int], names: Sequence[_Name]) -> set[int]:
    """Add what is reached when `**` stands for no folder at all."""
    for at in sorted(reached):
        while at < len(names) - 1 and names[at] is None:
            at += 1
            reached.add(at)
    return reached


def _compiled(pattern: str, *, anchored: bool) -> list[_Name]:
    names = [_name(name) for name in _split(pattern) if name]
    return names if anchored else [None, *names]


def _split(pattern: str) -> list[str]:
    """Split at slashes, but not inside a class."""
    names, start, at = [], 0, 0
    while at < len(pattern):
        if pattern[at] == "[":
            at = _class_end(pattern, at)
        elif pattern[at] == "\\":
            at += 1
        elif pattern[at] == "/":
            names.append(pattern[start:at])
            start = at + 1
        at += 1
    return [*names, pattern[start:]]


def _name(name: str) -> _Name:
    if name == "**":
        return None
    fixed = [""]
    at = 0
    while at < len(name):
        char = name[at]
        if char == "*":
            fixed.append("")
        elif char == "?":
            fixed[-1] += "."
        elif char == "[":
            end = _class_end(name, at)
            fixed[-1] += _class(name[at + 1 : end])
            at = end
        else:
            at += char == "\\"
            if at == len(name):
                raise BadGlob("nothing follows the last backslash")
            fixed[-1] += re.escape(name[at])
        at += 1
    return re.compile(f"(?s:{_starred(fixed)})\\Z")


def _starred(fixed: Sequence[str]) -> str:
    if len(fixed) == 1:
        return fixed[0]
    # The first match of a middle piece is always good enough; atomic groups keep the engine from trying the others.
    middle = "".join(f"(?>.*?{piece})" for piece in fixed[1:-1] if piece)
    return f"{fixed[0]}{middle}.*{fixed[-1]}"


def _class_end(pattern: str, start: int) -> int:
    first = start + 1
    if pattern[first : first + 1] in ("!", "^"):
        first += 1
    end = pattern.find("]", first + 1)  # a bracket in the first place is a member
    if end < 0:
        raise BadGlob("a character class is not closed")
    return end


def _class(body: str) -> str:
    negated = body[:1] in ("!", "^")
    rest = body[negated:]
    members = ""
    while rest:
        if rest[1:2] == "-" and len(rest) > 2:
            if rest[0] > rest[2]:
                raise BadGlob(f"the range {rest[:3]} is reversed")
            members += f"{re.escape(rest[0])}-{re.escape(rest[2])}"
            rest = rest[3:]
        else:
            members += re.escape(rest[0])
            rest = rest[1:]
    return f"[{'^' if negated else ''}{members}]"


def _alternatives(pattern: str) -> list[str]:
    """Write out `{a,b}`, nested ones too."""
    at = 0
    while at < len(pattern):
        if pattern[at] == "[":
            at = _class_end(pattern, at)
        elif pattern[at] == "\\":
            at += 1
        elif pattern[at] == "}":
            raise BadGlob("a brace is closed that was not opened")
        elif pattern[at] == "{":
            choices, end = _choices(pattern, at)
            tails = _alternatives(pattern[end:])
            made = [
                pattern[:at] + head + tail for choice in choices for head in _alternatives(choice) for tail in tails
            ]
            if len(made) > MAX_ALTERNATIVES:
                raise BadGlob(f"more than {MAX_ALTERNATIVES} alternatives")
            return made
        at += 1
    return [pattern]


def _choices(pattern: str, start: int) -> tuple[list[str], int]:
    """Return the parts of the brace group that opens at ``start``, and where the pattern goes on behind it."""
    choices, depth, begin, at = [], 0, start + 1, start
    while at < len(pattern):
        char = pattern[at]
        if char == "[":
            at = _class_end(pattern, at)
        elif char == "\\":
            at += 1
        elif char == "{":
            depth += 1
        elif char in ",}" and depth == 1:
            choices.append(pattern[begin:at])
            begin = at + 1
        if char == "}":
            depth -= 1
            if depth == 0:
                return choices, at + 1
        at += 1
    raise BadGlob("a brace is not closed")
