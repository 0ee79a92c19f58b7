"""Values: what they share with frozen dataclasses, and copies of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import pytest

from kheish.core.values import changed, value_class


@value_class(frozen=True, kw_only=True, slots=True)
class Point:
    x: int
    y: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class FrozenPoint:
    x: int
    y: int = 0


@value_class(frozen=True, kw_only=True, slots=True)
class Derived:
    x: int

    def __post_init__(self) -> None:
        pass


@value_class(frozen=True, kw_only=True, slots=True)
class Caching:
    x: int
    _known: int | None = field(init=False, default=None)


@value_class(frozen=True, kw_only=True, slots=True)
class Counted:
    kind: ClassVar[str] = "counted"
    x: int


@value_class(frozen=True, kw_only=True, slots=True)
class Loose:
    x: int

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Loose)


@value_class(frozen=True, kw_only=True, slots=True)
class Named:
    name: str

    def __hash__(self) -> int:
        return 7


@value_class(frozen=True, kw_only=True, slots=True, eq=False)
class Single:
    x: int


def test_a_value_has_the_hash_of_a_frozen_dataclass() -> None:
    assert hash(Point(x=1, y=2)) == hash(FrozenPoint(x=1, y=2))
    assert {Point(x=1), Point(x=1), Point(x=2)} == {Point(x=1), Point(x=2)}


def test_a_hash_of_its_own_and_an_identity_stay() -> None:
    one = Single(x=1)

    assert hash(Named(name="a")) == 7
    assert hash(Loose(x=1)) == hash((1,))
    assert one != Single(x=1)
    assert hash(one) == object.__hash__(one)


def test_a_copy_differs_in_what_was_changed_and_leaves_the_value_alone() -> None:
    point = Point(x=1, y=2)

    assert changed(point, y=3) == Point(x=1, y=3)
    assert point == Point(x=1, y=2)


def test_a_copy_with_an_unknown_field_is_refused() -> None:
    changes = {"z": 3}
    with pytest.raises(TypeError, match="Point cannot be copied with 'z' changed"):
        changed(Point(x=1), **changes)


@pytest.mark.parametrize("value", [Derived(x=1), Caching(x=1)])
def test_what_a_value_works_out_for_itself_is_not_copied(value: Derived | Caching) -> None:
    with pytest.raises(TypeError, match=f"{type(value).__name__} works something out when it is made"):
        changed(value, x=2)


def test_what_belongs_to_the_class_stays_there() -> None:
    assert changed(Counted(x=1), x=2) == Counted(x=2)
