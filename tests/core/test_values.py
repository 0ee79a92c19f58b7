"""Values: what they share with frozen dataclasses, and copies of them."""

from __future__ import annotations

from dataclasses import dataclass

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
    assert one != Single(x=1)
    assert hash(one) == object.__hash__(one)


def test_a_copy_differs_in_what_was_changed_and_leaves_the_value_alone() -> None:
    point = Point(x=1, y=2)

    assert changed(point, y=3) == Point(x=1, y=3)
    assert point == Point(x=1, y=2)


def test_a_copy_with_an_unknown_field_is_refused() -> None:
    with pytest.raises(TypeError, match="Point cannot be copied with 'z' changed"):
        changed(Point(x=1), z=3)  # type: ignore[call-arg]


def test_what_is_worked_out_when_a_value_is_made_cannot_be_copied() -> None:
    with pytest.raises(TypeError, match="Derived works something out when it is made"):
        changed(Derived(x=1), x=2)
