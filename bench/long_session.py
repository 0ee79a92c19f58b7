"""What one more turn costs in a session with 10,000 journal entries, beside the first turn of a fresh session."""

from __future__ import annotations

import asyncio
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import httpx2

from bench.processes import TOKEN, Child, child, serve
from bench.seeding import Place, seeding, templates

_HEADERS = {"authorization": f"Bearer {TOKEN}"}
ENTRIES = 10_000
WINDOWS_TOKENS = (8_000, 128_000)
"""The first keeps the prompt small, so that what is left is the journal's; the second lets it fill up."""
_LONG = "long"
_WARM_UP = 5
ROUTE = """
[routes.bench]
driver = "openai_compatible"
default_model = "m"
base_url = "{url}/v1"
context_window_tokens = {window}
"""


def long_session(turns: int, rounds: int = 3) -> list[dict[str, object]]:
    """Milliseconds per turn, medians of ``rounds`` rounds of ``turns`` turns each; the model answers at once."""
    with tempfile.TemporaryDirectory(prefix="kheish-bench-") as folder:
        place = Place(root=Path(folder))
        place.prepare()
        entries = asyncio.run(_seed(place))
        shutil.copytree(place.state, place.root / "seeded")
        model_command = [sys.executable, str(Path(__file__).parent / "model_server.py")]
        with child(model_command, place.root / "model.log") as model:
            return [_row(place, model.url, entries, window, turns, rounds) for window in WINDOWS_TOKENS]


def _row(place: Place, model_url: str, entries: int, window: int, turns: int, rounds: int) -> dict[str, object]:
    shutil.rmtree(place.state)
    shutil.copytree(place.root / "seeded", place.state)
    place.routes.write_text(ROUTE.format(url=model_url, window=window))
    command = serve(state=place.state, workspace=place.workspace, routes=place.routes)
    with child(command, place.root / "daemon.log") as daemon:
        found = asyncio.run(_measure(daemon, turns, rounds))
    wall, cpu = found["long_ms"] / found["fresh_ms"], found["long_cpu_ms"] / found["fresh_cpu_ms"]
    print(
        f"{'long session':<24} {entries} entries, window {window}: one more turn {wall:.2f} of a fresh session's first "
        f"({cpu:.2f} in processor time)   {found['long_ms']:.2f} ms beside {found['fresh_ms']:.2f} ms, "
        f"first use after the start {found['first_use_ms']:.0f} ms",
        flush=True,
    )
    row = {"row": "long session", "entries": entries, "window_tokens": window, "ratio": wall, "cpu_ratio": cpu}
    return {**row, **found}


async def _seed(place: Place) -> int:
    look = (await templates(place))["look"]
    async with seeding(place) as seed:
        return await seed.session(_LONG, [look] * (ENTRIES // len(look.entries)))


async def _measure(daemon: Child, turns: int, rounds: int) -> dict[str, float]:
    async with httpx2.AsyncClient(base_url=daemon.url, timeout=120, headers=_HEADERS) as client:
        began = time.perf_counter()
        await _turn(client, _LONG)
        first_use_ms = (time.perf_counter() - began) * 1000
        fresh = [f"fresh-{number}" for number in range(rounds * turns + _WARM_UP)]
        for name in fresh:
            (await client.post("/v1/sessions", json={"session_id": name})).raise_for_status()
        for name in (*fresh[-_WARM_UP:], *[_LONG] * _WARM_UP):
            await _turn(client, name)
        walls: dict[str, list[float]] = {"fresh": [], "long": []}
        cpus: dict[str, list[float]] = {"fresh": [], "long": []}
        for number in range(rounds):
            for kind, names in (("fresh", fresh[number * turns : (number + 1) * turns]), ("long", [_LONG] * turns)):
                before = daemon.cpu_s() or 0.0
                walls[kind] += [await _turn(client, name) for name in names]
                cpus[kind].append(((daemon.cpu_s() or 0.0) - before) / turns)
    found = {f"{kind}_ms": statistics.median(seconds) * 1000 for kind, seconds in walls.items()}
    return {
        **found,
        **{f"{kind}_cpu_ms": max(statistics.median(seconds), 1e-6) * 1000 for kind, seconds in cpus.items()},
        "first_use_ms": first_use_ms,
    }


async def _turn(client: httpx2.AsyncClient, session_id: str) -> float:
    began = time.perf_counter()
    (await client.post(f"/v1/sessions/{session_id}/input", json={"content": "hi"})).raise_for_status()
    return time.perf_counter() - began
