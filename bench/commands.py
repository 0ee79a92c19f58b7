"""How long whole commands take: each a process of its own, beside an interpreter that does nothing."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.figures import Figure, Scale, figure
from bench.processes import TOKEN, child, environment, serve
from bench.seeding import Place

_TIMES = (7, 1)
"""Of each command in one round of a full and of a quick run; their median counts."""


def commands(scale: Scale) -> list[Figure]:
    """Milliseconds of `--help`, and of a command that asks a running daemon."""
    with tempfile.TemporaryDirectory(prefix="kheish-bench-") as folder:
        place = Place(root=Path(folder))
        place.prepare()
        command = serve(state=place.state, workspace=place.workspace, routes=place.routes)
        with child(command, place.root / "daemon.log", kept=False) as daemon:
            timed = {
                "bare": [sys.executable, "-c", "pass"],
                "help": [sys.executable, "-m", "kheish", "--help"],
                "status": [sys.executable, "-m", "kheish", "--base-url", daemon.url, "status"],
            }
            found: dict[str, list[float]] = {name: [] for name in timed}
            for _ in range(scale.rounds):
                for name, words in timed.items():
                    found[name].append(statistics.median(_ms(words) for _ in range(scale.times(*_TIMES))))
    rows = {"help": "kheish-daemon --help", "status": "kheish-daemon status, of a running daemon"}
    return [
        figure(f"cli.{name}", row, "ms", found[name], found["bare"], beside_name="bare interpreter")
        for name, row in rows.items()
    ]


def _ms(words: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(
        words, stdout=subprocess.DEVNULL, check=True, env={**environment(None), "KHEISH_DAEMON_TOKEN": TOKEN}
    )
    return (time.perf_counter() - began) * 1000
