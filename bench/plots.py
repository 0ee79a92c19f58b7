"""Pictures of the results, as PNG. Needs matplotlib, which is installed for development only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.aims import aim, verdict
from bench.figures import Figure, Results, Spread
from bench.report import LIMIT, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DAEMON, BESIDE, AIM, MACHINE = "#1f5fa8", "#8d99a6", "#c0392b", "#5b6770"
_KINDS = (("no_tool", "no tool", 2), ("one_tool", "one tool", 4))
"""Key, label, commits of a run."""
_SESSIONS = (1, 16, 64)
_PAIRS = (("", "", "-", 1.0), (".same_library", " on the library", ":", 0.5))
"""End of the key, end of the name, line, and how strong the colour is: each daemon beside the floor with its client."""
_ARROWS = {"higher": "→", "lower": "←"}
_BAR = 0.2
_BAND = 0.3
"""Height in inches of a row of the picture of ratios."""


def draw(results: Results, folder: Path) -> list[Path]:
    """Draw what there are figures for; returns the files.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figures = {figure.key: figure for figure in results.figures}
    drawn = [_throughput(figures, folder), _overhead(figures, folder), _ratios(results.figures, folder)]
    return [path for path in drawn if path is not None]


def _throughput(figures: Mapping[str, Figure], folder: Path) -> Path | None:
    from matplotlib.figure import Figure as Picture

    every = [
        f"throughput.{kind}.{sessions}{end}" for kind, *_ in _KINDS for sessions in _SESSIONS for end, *_ in _PAIRS
    ]
    if any(key not in figures for key in every):
        return None
    picture = Picture(figsize=(10, 5), layout="constrained")
    axes: Sequence[Axes] = picture.subplots(1, 2, sharey=True)
    for axis, (kind, label, commits) in zip(axes, _KINDS, strict=True):
        for end, name, line, strength in _PAIRS:
            found = [figures[f"throughput.{kind}.{sessions}{end}"] for sessions in _SESSIONS]
            _by_sessions(axis, found, name, line, strength)
        for key, name, share in (
            ("limit.asgi_requests", "bare ASGI requests", 1),
            ("limit.rows", f"rows committed in groups / {commits}", commits),
        ):
            if key in figures:
                _level(axis, figures[key].daemon.median / share, name)
        axis.set_title(label)
        axis.set_xlabel("concurrent sessions")
    axes[0].set_ylabel("runs per second, log scale")
    picture.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    path = folder / "throughput.png"
    picture.savefig(path, dpi=120)
    return path


def _overhead(figures: Mapping[str, Figure], folder: Path) -> Path | None:
    from matplotlib.figure import Figure as Picture

    labels = {f"overhead.{kind}.p{part}": f"{label}\np{part}" for kind, label, _ in _KINDS for part in (50, 95)}
    if any(f"{key}{end}" not in figures for key in labels for end, *_ in _PAIRS):
        return None
    picture = Picture(figsize=(8, 4.5), layout="constrained")
    axis: Axes = picture.subplots()
    for pair, (end, name, _, strength) in enumerate(_PAIRS):
        _bars(axis, [figures[f"{key}{end}"] for key in labels], 2 * pair, name, strength)
    axis.set_xticks(range(len(labels)), list(labels.values()))
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_ylim(bottom=0)
    axis.set_ylabel("ms")
    axis.set_title("A run beyond its model calls, one session")
    axis.legend(loc="upper left", frameon=False)
    path = folder / "overhead.png"
    picture.savefig(path, dpi=120)
    return path


def _ratios(figures: Sequence[Figure], folder: Path) -> Path | None:
    from matplotlib.figure import Figure as Picture
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    shown = [figure for figure in figures if figure.ratio is not None and not figure.key.startswith(LIMIT)]
    if not shown:
        return None
    picture = Picture(figsize=(10.5, 1.2 + _BAND * len(shown)), layout="constrained")
    axis: Axes = picture.subplots()
    for place, figure in enumerate(shown):
        assert figure.ratio is not None
        _dot(axis, place, figure.ratio, AIM if verdict(figure) == "not met" else DAEMON)
        asked = aim(figure)
        if asked is not None and asked.of_ratio:
            axis.vlines(asked.value, place - 0.4, place + 0.4, colors=AIM, linewidth=2)
    axis.set_xscale("log")
    axis.axvline(1, color=BESIDE, linewidth=1)
    axis.xaxis.set_major_locator(FixedLocator([0.1, 0.2, 0.4, 0.6, 1, 1.5, 2, 3, 5, 10, 20, 50, 100]))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    labels = [f"{figure.row} / {figure.beside_name} {_ARROWS[figure.better]}" for figure in shown]
    axis.set_yticks(range(len(shown)), labels, fontsize=8)
    axis.invert_yaxis()
    axis.margins(y=0.02)
    axis.grid(axis="x", color="#e5e8eb")
    axis.set_axisbelow(True)
    picture.suptitle("Daemon / what stands beside it. Upright red: the aim. Arrow: the better way.", fontsize=10)
    path = folder / "ratios.png"
    picture.savefig(path, dpi=120)
    return path


def _by_sessions(axis: Axes, figures: Sequence[Figure], client: str, line: str, strength: float) -> None:
    """A daemon and the floor with its ``client``."""
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.set_xticks(range(len(_SESSIONS)), [str(count) for count in _SESSIONS])
    axis.set_xlim(-0.6, len(_SESSIONS) - 0.2)
    above, below = (5, 6), (5, -12)
    for name, color, found, at in (
        ("daemon", DAEMON, [figure.daemon for figure in figures], below if client else above),
        ("floor", BESIDE, [_beside(figure) for figure in figures], above),
    ):
        medians = [each.median for each in found]
        axis.plot(range(len(found)), medians, "o", linestyle=line, color=color, alpha=strength, label=name + client)
        for place, each in enumerate(found):
            axis.vlines(place, each.low, each.high, colors=color, linewidth=2, alpha=strength)
            axis.annotate(
                number(each.median),
                (place, each.median),
                xytext=at,
                textcoords="offset points",
                fontsize=8,
                color=color,
            )
    axis.spines[["top", "right"]].set_visible(False)


def _bars(axis: Axes, figures: Sequence[Figure], first: int, client: str, strength: float) -> None:
    """A daemon and the floor with its ``client``, as the ``first`` bar of each group and the next."""
    for side, (name, color) in enumerate((("daemon", DAEMON), ("floor", BESIDE))):
        found = [figure.daemon if side == 0 else _beside(figure) for figure in figures]
        places = [place + (first + side - 1.5) * _BAR for place in range(len(figures))]
        axis.bar(places, [each.median for each in found], _BAR, color=color, alpha=strength, label=name + client)
        for place, each in zip(places, found, strict=True):
            axis.vlines(place, each.low, each.high, colors="#222222", linewidth=1.2)


def _beside(figure: Figure) -> Spread:
    assert figure.beside is not None, f"{figure.key} stands alone"
    return figure.beside


def _level(axis: Axes, value: float, name: str) -> None:
    axis.axhline(value, color=MACHINE, linestyle="--", linewidth=1)
    axis.annotate(
        name, (1, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8, color=MACHINE
    )


def _dot(axis: Axes, place: float, ratio: Spread, color: str) -> None:
    axis.hlines(place, ratio.low, ratio.high, colors=color, linewidth=2)
    axis.plot([ratio.median], [place], "o", color=color, markersize=5)
