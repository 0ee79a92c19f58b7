"""What counts as moved between two runs of the bench."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given

from bench.compare import compare, lines, outside
from bench.figures import Results, Spread, figure
from tests.bench.results import any_results, results


@pytest.mark.parametrize(
    ("before", "after", "moved"),
    [
        ((0.40, 0.50, 0.60), (0.45, 0.55, 0.65), False),
        ((0.40, 0.50, 0.60), (0.90, 1.00, 1.10), True),
        # One side's rounds are far apart: chance.
        ((0.48, 0.50, 0.52), (0.45, 0.70, 0.80), False),
        # Rounds that agree by chance are no measure.
        ((1.00, 1.00, 1.00), (1.04, 1.04, 1.04), False),
        # Apart, and not by more than their rounds are: chance often enough.
        ((0.40, 0.50, 0.60), (0.61, 0.70, 0.80), False),
    ],
)
def test_a_figure_moves_by_more_than_both_spreads_together(
    before: tuple[float, ...], after: tuple[float, ...], moved: bool
) -> None:
    assert outside(Spread.of(before), Spread.of(after)) is moved


def test_more_rounds_of_the_same_figure_do_not_lie_further_apart() -> None:
    few = Spread.of([1.0, 2.0, 3.0])
    many = Spread.of([1.0, 1.5, 2.0, 2.5, 3.0] * 3 + [0.1, 9.0])

    assert (few.low, few.high) == (1.0, 3.0)
    assert (many.median, many.low, many.high) == (2.0, 1.5, 2.5)


@pytest.mark.parametrize(
    ("better", "after", "way"),
    [
        ("higher", [9.0, 9.0, 9.0], "better"),
        ("higher", [1.0, 1.0, 1.0], "worse"),
        ("lower", [9.0, 9.0, 9.0], "worse"),
        ("lower", [1.0, 1.0, 1.0], "better"),
    ],
)
def test_which_way_is_better_belongs_to_the_figure(
    better: Literal["higher", "lower"], after: list[float], way: str
) -> None:
    first = results(figure("a", "a row", "ms", [4, 4.5, 5], better=better))
    second = results(figure("a", "a row", "ms", after, better=better))

    (move,) = compare(first, second).moved

    assert (move.key, move.by, move.way) == ("a", "absolute", way)


def test_ratios_are_compared_where_both_have_one_although_the_machine_got_slower() -> None:
    first = results(figure("a", "a row", "runs/s", [40, 50, 60], [100, 100, 100], better="higher"))
    second = results(figure("a", "a row", "runs/s", [4, 5, 6], [10, 10, 10], better="higher"))
    alone = results(figure("a", "a row", "runs/s", [4, 5, 6], better="higher"))

    assert compare(first, second).moved == ()
    assert [(move.by, move.way) for move in compare(first, alone).moved] == [("absolute", "worse")]


def test_keys_of_one_run_only_are_named_and_not_judged() -> None:
    first = results(figure("a", "a row", "ms", [1, 1, 1]), figure("b", "b row", "ms", [1, 1, 1]))
    second = results(figure("b", "b row", "ms", [1, 1, 1]), figure("c", "c row", "ms", [9, 9, 9]), scale="quick")

    found = compare(first, second)

    assert (found.moved, found.steady, found.gone, found.new) == ((), 1, ("a",), ("c",))
    assert lines(found, first, second) == [
        "compared with full results of 2026-01-02 03:04 UTC (2 cores, Linux, Python 3.11.7):",
        "  NOT ALIKE: those are full and these quick, which measure other loads",
        "  0 moved, 1 stayed within their spread",
        "  not measured now: a",
        "  new: c",
    ]


def test_a_single_round_is_judged_by_the_others_spread_only() -> None:
    single, far, wide = (results(figure("a", "a row", "MB", rounds)) for rounds in ([2], [9], [1, 8, 9]))
    narrow = results(figure("a", "a row", "MB", [8, 8.5, 9]))

    assert (compare(single, far).moved, compare(single, far).single) == ((), ("a",))
    assert lines(compare(single, far), single, far)[-1] == "  one round in both, not judged: a"
    assert compare(single, wide).moved == ()
    assert [move.way for move in compare(single, narrow).moved] == ["worse"]


def test_limits_of_the_machine_are_told_and_not_judged() -> None:
    first = results(figure("limit.rows", "rows", "rows/s", [100, 100, 100], better="higher"))
    second = results(figure("limit.rows", "rows", "rows/s", [50, 50, 50], better="higher"))

    found = compare(first, second)

    assert (found.moved, found.machine) == ((), (("rows", 0.5),))
    assert lines(found, first, second)[-1] == "  the machine, now / then: rows 0.50"


def test_what_moved_is_said_with_both_spreads() -> None:
    first = results(figure("a", "a row", "ms", [1, 2, 3], [1, 1, 1]), figure("b", "b row", "MB", [60, 60, 60]))
    second = results(figure("a", "a row", "ms", [8, 8.5, 9], [1, 1, 1]), figure("b", "b row", "MB", [50, 51, 52]))

    assert lines(compare(first, second), first, second)[1:] == [
        "  worse   a row: ratio 2.00 (1.00–3.00) -> 8.50 (8.00–9.00)",
        "  better  b row: absolute 60.0 -> 51.0 (50.0–52.0) MB",
        "  2 moved, 0 stayed within their spread",
        "  absolutes belong to their machine and minute; ratios were taken side by side",
    ]


@given(any_results())
def test_nothing_moves_against_itself(found: Results) -> None:
    same = compare(found, found)

    assert (same.moved, same.gone, same.new) == ((), (), ())
    assert all(ratio == 1 for _, ratio in same.machine)


@given(any_results(), any_results())
def test_the_way_back_is_the_opposite(first: Results, second: Results) -> None:
    # Which way is better is the figure's own, for ever.
    better = {each.key: each.better for each in first.figures}
    second = replace(
        second, figures=tuple(replace(each, better=better.get(each.key, each.better)) for each in second.figures)
    )
    there, back = compare(first, second), compare(second, first)
    opposite = {"better": "worse", "worse": "better"}

    assert {move.key: move.way for move in there.moved} == {move.key: opposite[move.way] for move in back.moved}
    assert (there.steady, set(there.gone), set(there.new)) == (back.steady, set(back.new), set(back.gone))
