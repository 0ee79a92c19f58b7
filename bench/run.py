"""./dev bench: the daemon beside the floor, in turn, in one run. Prints ratios; writes bench/results/latest.json.

Figures of one run belong together; compare ratios, not absolutes of different machines or days.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx2

from bench.boot import boot
from bench.long_session import long_session
from bench.processes import TOKEN, child, serve

HERE = Path(__file__).parent
_HEADERS = {"authorization": f"Bearer {TOKEN}"}
ROUTES = """
[routes.bench]
driver = "openai_compatible"
default_model = "m"
base_url = "{url}/v1"
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    name: str
    content: str
    sessions: int
    runs: int


def rows(quick: bool) -> list[Row]:
    scale = 1 if quick else 4
    made = []
    for label, content in (("no tool", "hi"), ("one tool", "use a tool")):
        for sessions, runs in ((1, 60), (16, 25), (64, 8)):
            made.append(
                Row(name=f"{label}, {sessions} sessions", content=content, sessions=sessions, runs=runs * scale)
            )
    return made


async def drive(url: str, row: Row, tag: str, create: bool) -> tuple[float, list[float]]:
    """Runs per second and the seconds of each run: every session submits and waits, one run after the other."""
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=url, timeout=60, limits=limits, headers=_HEADERS) as client:
        names = [f"bench-{tag}-{number}" for number in range(row.sessions)]
        if create:
            for name in names:
                (await client.post("/v1/sessions", json={"session_id": name})).raise_for_status()
        seconds: list[float] = []

        async def session(name: str) -> None:
            for _ in range(row.runs):
                began = time.perf_counter()
                response = await client.post(f"/v1/sessions/{name}/input", json={"content": row.content})
                response.raise_for_status()
                seconds.append(time.perf_counter() - began)

        began = time.perf_counter()
        await asyncio.gather(*(session(name) for name in names))
        return len(seconds) / (time.perf_counter() - began), seconds


def measure(quick: bool) -> list[dict[str, object]]:
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kheish-bench-")))
        workspace = root / "workspace"
        workspace.mkdir()
        (workspace / "note.txt").write_text("a note\n")
        python = sys.executable
        model = stack.enter_context(child([python, str(HERE / "model_server.py")], root / "model.log")).url
        (root / "routes.toml").write_text(ROUTES.format(url=model))
        floor_command = [python, str(HERE / "floor.py"), str(root / "floor.db"), str(workspace), model]
        floor = stack.enter_context(child(floor_command, root / "floor.log")).url
        daemon_command = serve(state=root / "state", workspace=workspace, routes=root / "routes.toml")
        daemon = stack.enter_context(child(daemon_command, root / "daemon.log")).url
        return [_compare(row, floor, daemon, rounds=3) for row in rows(quick)]


def start_up(rounds: int) -> dict[str, object]:
    """How long `kheish-daemon --help` takes beside a bare interpreter; seconds, medians."""
    commands = {
        "help": [sys.executable, "-m", "kheish", "--help"],
        "interpreter": [sys.executable, "-c", "pass"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            began = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            seconds[name].append(time.perf_counter() - began)
    found = {name: statistics.median(times) for name, times in seconds.items()}
    help_ms, bare_ms = found["help"] * 1000, found["interpreter"] * 1000
    print(f"{'--help':<24} {help_ms:.0f} ms, a bare interpreter {bare_ms:.0f} ms")
    return {"row": "--help", **found}


def _compare(row: Row, floor: str, daemon: str, rounds: int) -> dict[str, object]:
    rates: dict[str, list[float]] = {"floor": [], "daemon": []}
    times: dict[str, list[float]] = {"floor": [], "daemon": []}
    for number in range(rounds):
        for name, url in (("floor", floor), ("daemon", daemon)):
            tag = f"{row.content[:3]}-{row.sessions}-{number}".replace(" ", "")
            rate, seconds = asyncio.run(drive(url, row, tag, create=name == "daemon"))
            rates[name].append(rate)
            times[name] += seconds
    ratios = [mine / bare for mine, bare in zip(rates["daemon"], rates["floor"], strict=True)]
    found: dict[str, object] = {
        "row": row.name,
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        "floor_runs_per_s": statistics.median(rates["floor"]),
        "daemon_runs_per_s": statistics.median(rates["daemon"]),
        "floor_p50_ms": statistics.median(times["floor"]) * 1000,
        "daemon_p50_ms": statistics.median(times["daemon"]) * 1000,
    }
    print(_line(found), flush=True)
    return found


def _line(found: dict[str, object]) -> str:
    return (
        f"{found['row']:<24} daemon/floor {found['ratio']:5.2f} ({found['ratio_low']:.2f}-{found['ratio_high']:.2f})   "
        f"daemon {found['daemon_runs_per_s']:7.1f} runs/s, p50 {found['daemon_p50_ms']:6.2f} ms   "
        f"floor {found['floor_runs_per_s']:7.1f} runs/s, p50 {found['floor_p50_ms']:6.2f} ms"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a quarter of the runs")
    options = parser.parse_args()
    found = [
        start_up(rounds=5),
        boot(rounds=2 if options.quick else 5),
        *long_session(turns=20 if options.quick else 80),
        *measure(options.quick),
    ]
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    (results / "latest.json").write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
