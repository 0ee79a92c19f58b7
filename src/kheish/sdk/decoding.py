"""Turns JSON objects into the typed values of types.py and keeps what this client does not know."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from typing import Self, TypeAlias

from kheish.sdk.errors import UnexpectedResponse
from kheish.sdk.jsonvalue import JsonObject, JsonValue

Read: TypeAlias = Callable[[JsonValue], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Wire:
    """Base of the response types. Fields are read by their annotations."""

    extra: JsonObject = field(default_factory=dict)
    """Fields this client does not know."""
    raw: JsonObject = field(default_factory=dict, repr=False, compare=False)
    """The object as it was received."""

    @classmethod
    def from_json(cls, value: JsonValue) -> Self:
        """Read one object.

        Raises:
            UnexpectedResponse: a field is missing or has another type than the API promises.
        """
        if not isinstance(value, dict):
            raise UnexpectedResponse(f"{cls.__name__}: expected an object")
        rest = dict(value)
        found: dict[str, object] = {"extra": rest, "raw": value}
        for name, required, read in _readers(cls):
            given = rest.pop(name, None)
            if given is None:
                if required:
                    raise UnexpectedResponse(f"{cls.__name__}: the field {name} is missing")
                continue
            try:
                found[name] = read(given)
            except _WrongType as wrong:
                raise UnexpectedResponse(f"{cls.__name__}: expected {wrong} in the field {name}") from None
        return cls(**found)  # type: ignore[arg-type]  # every value was read by its field's annotation


class _WrongType(Exception):
    """What was expected."""


_known: dict[type[Wire], tuple[tuple[str, bool, Read], ...]] = {}


def _readers(cls: type[Wire]) -> tuple[tuple[str, bool, Read], ...]:
    """Name, whether it must be there, and reader of each field of the class."""
    if cls in _known:
        return _known[cls]
    found = []
    for each in fields(cls):
        if each.name not in ("extra", "raw"):
            required = each.default is MISSING and each.default_factory is MISSING
            found.append((each.name, required, _reader(str(each.type), cls.__module__)))
    _known[cls] = tuple(found)
    return _known[cls]


def _reader(annotation: str, module: str) -> Read:
    """The reader for an annotation: a plain type, another response type, or a tuple of one of them."""
    plain = annotation.removesuffix(" | None")
    if plain.startswith("tuple["):
        return _tuple_of(_reader(plain.removeprefix("tuple[").removesuffix(", ...]"), module))
    known = _PLAIN.get(plain)
    if known is not None:
        return known
    found = getattr(sys.modules[module], plain)
    assert isinstance(found, type)
    assert issubclass(found, Wire)
    return found.from_json


def _tuple_of(read: Read) -> Read:
    def read_all(value: JsonValue) -> object:
        if not isinstance(value, list):
            raise _WrongType("an array")
        return tuple(map(read, value))

    return read_all


def _only(kinds: tuple[type, ...], expected: str) -> Read:
    def read(value: JsonValue) -> object:
        if type(value) not in kinds:
            raise _WrongType(expected)
        return value

    return read


def as_json(value: JsonValue) -> JsonValue:
    """The answer as it is."""
    return value


_PLAIN: dict[str, Read] = {
    "str": _only((str,), "a string"),
    "int": _only((int,), "an integer"),
    "float": _only((float, int), "a number"),
    "bool": _only((bool,), "true or false"),
    "JsonObject": _only((dict,), "an object"),
    "JsonValue": as_json,
}


def as_object(value: JsonValue) -> JsonObject:
    """The whole answer as an object of free shape."""
    if isinstance(value, dict):
        return value
    raise UnexpectedResponse("expected an object")


def as_list(value: JsonValue) -> list[JsonValue]:
    """The whole answer as a list."""
    if isinstance(value, list):
        return value
    raise UnexpectedResponse("expected an array")
