"""Results as the bench would have found them, whole or drawn at random."""

from __future__ import annotations

from typing import Literal

from hypothesis import strategies as st

from bench.figures import Figure, Results, figure


def results(*figures: Figure, scale: Literal["quick", "full"] = "full") -> Results:
    return Results(
        scale=scale, rounds=3, taken_at="2026-01-02 03:04 UTC", machine="2 cores, Linux, Python 3.11.7", figures=figures
    )


_rounds = st.lists(st.floats(min_value=0.01, max_value=1e6), min_size=3, max_size=3)


@st.composite
def figures(draw: st.DrawFn, key: str) -> Figure:
    return figure(
        key,
        f"row {key}",
        "ms",
        draw(_rounds),
        draw(st.none() | _rounds),
        better=draw(st.sampled_from(("higher", "lower"))),
        aim=draw(st.sampled_from(("", "at least 0.4", "at most 3 x", "at most 90 ms"))),
        note=draw(st.sampled_from(("", "a note"))),
    )


def any_results() -> st.SearchStrategy[Results]:
    keys = st.lists(st.sampled_from(("a", "b", "c", "limit.d", "limit.e")), unique=True)
    return keys.flatmap(lambda named: st.tuples(*map(figures, named))).map(lambda found: results(*found))
