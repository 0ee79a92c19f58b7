"""Strict reading of configuration tables: every key is known, every type is checked, no value is ever echoed."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NoReturn, TypeVar

from kheish.core.problems import Problem

_PLAIN_KEY = re.compile(r"[A-Za-z_]{1,40}\Z")
_POSITION = re.compile(r"\(at line (\d+), column (\d+)\)")

Choice = TypeVar("Choice", bound=StrEnum)


class RoutesError(Problem):
    """The configured model routes cannot be used; the daemon does not start."""

    domain, code, status = "routes", "routes_invalid", 500


def shown(key: object) -> str:
    """Return a key quoted when it looks like a word, else a neutral phrase: it may be a misplaced secret."""
    if isinstance(key, str) and _PLAIN_KEY.match(key):
        return f"'{key}'"
    return "(its name is not shown)"


def parse_toml(data: bytes, *, source: str) -> dict[str, object]:
    """Parse TOML.

    Raises:
        RoutesError: it is not TOML; the message has the line and column, and nothing of the content.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - (data.rfind(b"\n", 0, error.start) + 1) + 1
        raise RoutesError(f"{source}: line {line}, column {column}: not UTF-8") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = _POSITION.search(str(error))
        line, column = (int(found[1]), int(found[2])) if found else _end(text)
    # Raised outside the handler: the parser's own message quotes the file, and so would a chained traceback.
    raise RoutesError(f"{source}: line {line}, column {column}: not valid TOML")


def _end(text: str) -> tuple[int, int]:
    return text.count("\n") + 1, len(text) - (text.rfind("\n") + 1) + 1


class Table:
    """One table being read. Take each known key once, then call `done`."""

    def __init__(self, data: object, where: str) -> None:
        self.where = where
        if not isinstance(data, Mapping):
            raise RoutesError(f"{where}: must be a table")
        self._data: Mapping[str, object] = data
        self._known: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._data

    def fail(self, key: str, rule: str) -> NoReturn:
        raise RoutesError(f"{self.where}: {key}: {rule}")

    def take(self, key: str) -> object:
        """Return the raw value, None when absent."""
        self._known.add(key)
        return self._data.get(key)

    def text(self, key: str, *, blank: bool = False) -> str | None:
        value = self.take(key)
        if value is None:
            return None
        if not isinstance(value, str):
            self.fail(key, "must be a string")
        if not blank and not value.strip():
            self.fail(key, "must not be blank")
        return value

    def required_text(self, key: str) -> str:
        value = self.text(key)
        if value is None:
            self.fail(key, "is required")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.take(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, str) and item.strip() for item in value):
            self.fail(key, "must be a list of non-blank strings")
        return tuple(value)

    def flag(self, key: str) -> bool | None:
        value = self.take(key)
        if value is not None and not isinstance(value, bool):
            self.fail(key, "must be true or false")
        return value

    def integer(self, key: str, *, minimum: int = 0, maximum: int | None = None) -> int | None:
        value = self.take(key)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool):
            self.fail(key, "must be a whole number")
        if value < minimum or (maximum is not None and value > maximum):
            self.fail(key, f"must be at least {minimum}" + ("" if maximum is None else f" and at most {maximum}"))
        return value

    def amount(self, key: str, *, maximum: float | None = None) -> float | None:
        """Return a number that is not negative, whole or not."""
        value = self.take(key)
        if value is None:
            return None
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            self.fail(key, "must be a number")
        if value < 0 or (maximum is not None and value > maximum):
            self.fail(key, "must not be negative" if maximum is None else f"must be between 0 and {maximum:g}")
        return float(value)

    def choice(self, key: str, choices: type[Choice]) -> Choice | None:
        value = self.text(key)
        if value is None:
            return None
        if value not in list(choices):
            self.fail(key, "must be one of " + ", ".join(choices))
        return choices(value)

    def several(self, key: str) -> Sequence[object]:
        """Return a list of raw values; a single one counts as a list of one."""
        value = self.take(key)
        if value is None:
            return ()
        if isinstance(value, list):
            return value
        return (value,)

    def refuse_together(self, *keys: str) -> None:
        present = [key for key in keys if key in self]
        if len(present) > 1:
            self.fail(present[0], f"cannot be combined with {present[1]}")

    def done(self, *, also: Iterable[str] = ()) -> None:
        """Refuse every key that was not taken."""
        unknown = [key for key in self._data if key not in self._known and key not in also]
        if unknown:
            raise RoutesError(f"{self.where}: unknown key {shown(unknown[0])}")
