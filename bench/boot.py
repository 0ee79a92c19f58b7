"""How long a start takes over a state root with a past: 1,000 sessions with history and 200 unfinished runs."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.processes import serve
from bench.seeding import Place, Template, seeding, templates
from kheish.engine import entries as e

SESSIONS = 1000
HISTORY_RUNS = 4
"""Of 8 entries each."""
UNFINISHED_PER_KIND = 40
DEADLINE_S = 120.0
_LOOK_EVERY_S = 0.005


def boot(rounds: int) -> dict[str, object]:
    """Seconds from the start of the process to `GET /readyz` 200, beside an empty state root, and memory."""
    with tempfile.TemporaryDirectory(prefix="kheish-bench-") as folder:
        place = Place(root=Path(folder))
        place.prepare()
        began = time.perf_counter()
        counted = asyncio.run(_seed(place))
        seeded_s = time.perf_counter() - began
        shutil.copytree(place.state, place.root / "seeded")
        measured: dict[str, list[tuple[float, float, float]]] = {"empty": [], "seeded": []}
        for _ in range(rounds):
            for kind, runs in measured.items():
                shutil.rmtree(place.state, ignore_errors=True)
                if kind == "seeded":
                    shutil.copytree(place.root / "seeded", place.state)
                runs.append(_start(place))
    found = {
        f"{kind}_{name}": statistics.median(column)
        for kind, runs in measured.items()
        for name, column in zip(("ready_s", "ready_mb", "settled_mb"), zip(*runs, strict=True), strict=True)
    }
    print(
        f"{'boot':<24} {SESSIONS} sessions, {counted} unfinished runs: ready in {found['seeded_ready_s']:.2f} s, "
        f"{found['seeded_ready_mb']:.0f} MB; empty {found['empty_ready_s']:.2f} s, {found['empty_ready_mb']:.0f} MB; "
        f"all resumed {found['seeded_settled_mb']:.0f} MB (seeded in {seeded_s:.0f} s)",
        flush=True,
    )
    return {"row": "boot", "sessions": SESSIONS, "unfinished_runs": counted, **found}


async def _seed(place: Place) -> int:
    """Make the state root; returns how many unfinished runs it has."""
    made = await templates(place)
    look, ask = made["look"], made["ask"]
    kinds: list[list[Template]] = [
        [ask, look.first(e.InputAccepted)],
        [look.first(e.RunStarted)],
        [look.first(e.ToolIntended)],
        [look.first(e.ToolFinished)],
    ]
    unfinished = [kind for kind in kinds for _ in range(UNFINISHED_PER_KIND)]
    history = [look] * HISTORY_RUNS
    named = [
        (f"session-{number}", [*history, *(unfinished[number] if number < len(unfinished) else [])])
        for number in range(SESSIONS)
    ]
    async with seeding(place) as seed:
        await seed.sessions(named)
    return sum(len(kind) for kind in unfinished)


def _start(place: Place) -> tuple[float, float, float]:
    """Seconds to ready, MB at that moment, MB once every run that was running is over."""
    port = _free_port()
    bind = f"127.0.0.1:{port}"
    command = serve(state=place.state, workspace=place.workspace, routes=place.routes, bind=bind)
    with (place.root / "daemon.log").open("wb") as log:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _until(lambda: _status(port, "/readyz") == 200, process, place)
        ready_s, ready_mb = time.perf_counter() - began, _resident_mb(process.pid)
        _until(lambda: _running(port) == 0, process, place)
        return ready_s, ready_mb, _resident_mb(process.pid)
    finally:
        process.terminate()
        process.wait(DEADLINE_S)


def _until(holds: Callable[[], bool], process: subprocess.Popen[bytes], place: Place) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"the daemon did not get ready:\n{(place.root / 'daemon.log').read_text()}")
        time.sleep(_LOOK_EVERY_S)


def _status(port: int, path: str) -> int | None:
    try:
        return _get(port, path)[0]
    except OSError:
        return None


def _running(port: int) -> int:
    runs: dict[str, int] = json.loads(_get(port, "/v1/status")[1])["runs"]
    return runs["running"]


def _get(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
    with contextlib.closing(connection):
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _resident_mb(pid: int) -> float:
    kilobytes = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, check=True, text=True)
    return int(kilobytes.stdout) / 1024
