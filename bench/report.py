"""Results for people: the table in the terminal, and the generated part of docs/performance.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.aims import verdict
from bench.figures import Figure, Results, Spread

BEGIN = "<!-- figures: written by ./dev bench --accept -->"
END = "<!-- end of figures -->"
LIMIT = "limit."
"""How keys of what the machine gives begin: nothing of the daemon is in them."""
_HEADINGS = ("row", "ratio", "daemon", "beside", "aim", "")
_LIMIT_HEADINGS = ("limit of the machine", "", "beside", "ratio")


class NoMarkers(Exception):
    """The page has no place for the generated table."""


def table(figures: Sequence[Figure]) -> str:
    """For the terminal, columns aligned."""
    daemon, limits = _split(figures)
    parts = [
        _aligned(headings, rows)
        for headings, rows in (
            (_HEADINGS, [_cells(figure) for figure in daemon]),
            (_LIMIT_HEADINGS, [_limit_cells(figure) for figure in limits]),
        )
        if rows
    ]
    return "\n\n".join(parts)


def markdown(results: Results) -> str:
    """The generated part of the page, without its markers."""
    daemon, limits = _split(results.figures)
    notes: dict[str, list[str]] = {}
    for figure in (*daemon, *limits):
        notes.setdefault(figure.note, []).append(figure.row)
    limits_table = _markdown_table(("limit of the machine, same run", "", "beside", "ratio"), map(_limit_cells, limits))
    lines = [
        f"Taken {results.taken_at}, {results.scale} scale, {results.rounds} rounds, {results.machine}.",
        "",
        *_markdown_table(("row", "daemon / beside", "daemon", "beside", "aim", "met"), map(_cells, daemon)),
        *(["", *limits_table] if limits else []),
        "",
        *(f"- *{'; '.join(rows)}*: {note}" for note, rows in notes.items() if note),
    ]
    return "\n".join(lines)


def placed(page: str, generated: str) -> str:
    """The page with what stands between its markers replaced.

    Raises:
        NoMarkers: it has none, or not in this order.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise NoMarkers
    return f"{before}{begin}\n\n{generated.strip()}\n\n{end}{after}"


def number(value: float) -> str:
    """Three digits that count, no more."""
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 0.1 else f"{value:.2g}"


def spread(found: Spread) -> str:
    """`0.52 (0.48–0.75)`; one round, or rounds that agree, have no spread to show."""
    low, high = number(found.low), number(found.high)
    return number(found.median) if low == high else f"{number(found.median)} ({low}–{high})"


def _split(figures: Iterable[Figure]) -> tuple[list[Figure], list[Figure]]:
    daemon: list[Figure] = []
    limits: list[Figure] = []
    for figure in figures:
        (limits if figure.key.startswith(LIMIT) else daemon).append(figure)
    return daemon, limits


def _cells(figure: Figure) -> tuple[str, ...]:
    ratio = "" if figure.ratio is None else spread(figure.ratio)
    return figure.row, ratio, f"{spread(figure.daemon)} {figure.unit}", _beside(figure), figure.aim, verdict(figure)


def _limit_cells(figure: Figure) -> tuple[str, ...]:
    ratio = "" if figure.ratio is None else spread(figure.ratio)
    return figure.row, f"{spread(figure.daemon)} {figure.unit}", _beside(figure), ratio


def _beside(figure: Figure) -> str:
    return "" if figure.beside is None else f"{figure.beside_name} {spread(figure.beside)}"


def _aligned(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    lines = [headings, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    made = [headings, ["---"] * len(headings), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in made]
