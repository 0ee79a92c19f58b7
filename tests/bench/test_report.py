"""The bench's results as people and later runs read them."""

from __future__ import annotations

import pytest
from hypothesis import given

from bench.aims import verdict
from bench.figures import Results, figure
from bench.report import BEGIN, END, NoMarkers, markdown, number, placed, table
from bench.run import PAGE, decode, encode
from tests.bench.results import any_results, results

ONE = [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("aim", "daemon", "beside", "said"),
    [
        ("at least 0.4", 0.5, 1.0, "met"),
        ("at least 0.4", 0.5, 2.0, "not met"),
        ("at most 2.5 x", 5.0, 2.0, "met"),
        ("at most 2.5 x", 5.1, 2.0, "not met"),
        ("at most 90 MB", 89.0, None, "met"),
        ("at most 90 MB", 91.0, None, "not met"),
        # The unit of the figure itself: not of the ratio.
        ("within 5 MB", 4.0, 0.1, "met"),
        ("under 3 MB, over 10,000 runs", 3.5, None, "not met"),
        ("at least 10,000", 10_000.0, None, "met"),
        ("at most 1.2 MB.", 1.3, 1.3, "not met"),
        ("", 1.0, 1.0, ""),
        ("as little as can be", 1.0, 1.0, ""),
    ],
)
def test_an_aim_is_read_from_its_words(aim: str, daemon: float, beside: float | None, said: str) -> None:
    rounds = None if beside is None else [beside] * 3

    assert verdict(figure("a", "a", "MB", [daemon] * 3, rounds, aim=aim)) == said


def test_the_table_aligns_and_keeps_the_limits_of_the_machine_apart() -> None:
    found = [
        figure("limit.rows", "rows in groups", "rows/s", [9_000, 10_000, 11_000]),
        figure("a", "runs", "runs/s", [40, 50, 60], [100, 100, 100], better="higher", aim="at least 0.4"),
        figure("b", "idle", "MB", [91, 91, 91], aim="at most 90 MB"),
    ]

    assert table(found).splitlines() == [
        "row   ratio             daemon                   beside     aim",
        "----  ----------------  -----------------------  ---------  -------------  -------",
        "runs  0.50 (0.40–0.60)  50.0 (40.0–60.0) runs/s  floor 100  at least 0.4   met",
        "idle                    91.0 MB                             at most 90 MB  not met",
        "",
        "limit of the machine                                beside  ratio",
        "--------------------  ----------------------------  ------  -----",
        "rows in groups        10,000 (9,000–11,000) rows/s",
    ]


@pytest.mark.parametrize(
    ("value", "said"), [(12_345.6, "12,346"), (99.94, "99.9"), (1.005, "1.00"), (0.04567, "0.046"), (0, "0")]
)
def test_a_number_has_no_more_digits_than_it_is_worth(value: float, said: str) -> None:
    assert number(value) == said


def test_the_generated_part_of_the_page_is_replaced_and_nothing_else() -> None:
    page = f"before\n\n{BEGIN}\n\nold\n\n{END}\n\nafter\n"

    once = placed(page, "new\n")

    assert once == f"before\n\n{BEGIN}\n\nnew\n\n{END}\n\nafter\n"
    assert placed(once, "new\n") == once


@pytest.mark.parametrize("page", ["", BEGIN, END, f"{END} {BEGIN}"])
def test_a_page_without_markers_is_refused(page: str) -> None:
    with pytest.raises(NoMarkers):
        placed(page, "new")


def test_the_page_has_a_place_for_the_table() -> None:
    assert "one row" in placed(PAGE.read_text(), markdown(results(figure("a", "one row", "ms", ONE))))


@given(any_results())
def test_every_row_and_note_reaches_the_page(found: Results) -> None:
    page = markdown(found)

    for each in found.figures:
        assert page.count(f"| {each.row} |") == 1
        assert page.count(f"{each.row}*: {each.note}") + page.count(f"{each.row}; ") == bool(each.note)


@given(any_results())
def test_results_are_read_as_they_were_written(found: Results) -> None:
    assert decode(encode(found)) == found
