"""./dev bench: the daemon beside the floor and the machine's limits, in turn, in one run.

Prints a table of ratios and writes JSON and pictures into bench/results/. Figures of one run belong together: compare
ratios, not absolutes of different machines or days.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import orjson
import structlog
from pydantic import TypeAdapter, ValidationError

from bench.compare import compare, lines
from bench.figures import Figure, Results, Scale
from bench.plots import draw
from bench.report import markdown, placed, table

HERE = Path(__file__).parent
MODULES = ("limits", "throughput", "streams", "starts", "sizes", "turns")
ACCEPTED = HERE / "accepted.json"
PAGE = HERE.parent / "docs" / "performance.md"
RESULTS = HERE / "results"
_FORM = TypeAdapter(Results)


def decode(text: bytes) -> Results:
    return _FORM.validate_json(text)


def encode(results: Results) -> bytes:
    return orjson.dumps(results, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    before: Results | None = options.before
    scale = Scale(quick=options.quick)
    figures, broken = _measured(options.only or MODULES, scale)
    results = Results(
        scale="quick" if scale.quick else "full",
        rounds=scale.rounds,
        taken_at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        machine=f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}",
        figures=tuple(figures),
    )
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "latest.json").write_bytes(encode(results))
    _drawn(results)
    if before is not None:
        print("\n".join(["", *lines(compare(before, results), before, results)]))
    if broken:
        print(f"broken: {', '.join(broken)}; nothing is accepted", file=sys.stderr)
        return 1
    if options.accept:
        ACCEPTED.write_bytes(encode(results))
        PAGE.write_text(placed(PAGE.read_text(), markdown(results)))
        print(f"accepted: {ACCEPTED.name}, docs/{PAGE.name}")
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer runs of everything: under two minutes")
    parser.add_argument("--only", action="append", choices=MODULES, metavar="NAME", help=f"one of {', '.join(MODULES)}")
    parser.add_argument(
        "--compare",
        nargs="?",
        type=Path,
        const=ACCEPTED,
        metavar="FILE",
        help="say what moved outside of its spread; FILE is bench/accepted.json unless given",
    )
    parser.add_argument(
        "--accept", action="store_true", help="keep the results: bench/accepted.json and docs/performance.md"
    )
    options = parser.parse_args(arguments)
    if options.accept and options.only:
        parser.error("--accept needs the whole bench: figures of one run belong together")
    try:
        options.before = decode(options.compare.read_bytes()) if options.compare else None
    except (OSError, ValidationError):
        parser.error(f"{options.compare} holds no results to compare with")
    return options


def _measured(names: Sequence[str], scale: Scale) -> tuple[list[Figure], list[str]]:
    """The figures of these modules, and the names of those that broke."""
    figures: list[Figure] = []
    broken: list[str] = []
    for name in names:
        print(f"--- {name}", flush=True)
        began = time.monotonic()
        try:
            measure = cast("Callable[[Scale], list[Figure]]", importlib.import_module(f"bench.{name}").measure)
            found = measure(scale)
        # A row that breaks must not take the others with it; the exit status tells.
        except (Exception, SystemExit):
            traceback.print_exc()
            broken.append(name)
            continue
        figures += found
        print(f"{table(found)}\n    {time.monotonic() - began:.0f} s\n", flush=True)
    return figures, broken


def _drawn(results: Results) -> None:
    try:
        drawn = draw(results, RESULTS)
    except ImportError:
        print("no pictures: matplotlib is not installed")
        return
    print(f"bench/results: latest.json, {', '.join(path.name for path in drawn)}")


if __name__ == "__main__":
    # Daemons opened in this process only make a past; what they log is not for the table's reader.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    sys.exit(main())
