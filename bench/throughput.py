"""Runs per second, the processor time of one, and what a run takes beyond its model calls: daemon beside floor.

Load by load: the HTTP library's pool goes through all its connections at every call, and those of 64 sessions would
make the next round's single session slower than it is. So all rounds of one session come first, then those of 16, then
those of 64. What else needs many connections stands between the rounds of 64, so that they do not share one moment.
"""

from __future__ import annotations

import time
from statistics import median

import orjson
import uvloop

from bench.figures import Figure, Scale
from bench.floor import calling, standing_request
from bench.limits import ask
from bench.run_rows import KINDS, SESSIONS, Engine, Found, rows
from bench.sides import PAIRS, Kind, Sides, drive, sides
from bench.submits import submit_figures, submits

_RUNS = {1: (40, 20), 16: (60, 4), 64: (15, 2)}
"""How many each session makes in one round of a full and of a quick run."""
_ROUNDS = {1: (48, 10), 16: (3, 3), 64: (3, 2)}
"""In a full and in a quick run. One session is what others on the machine disturb most, and a round of 64 the least.

Short rounds, for both sides of a pair meet the same moment of a machine whose speed changes within seconds.
"""
_WARM_UP_RUNS = 25
"""By then the interpreter has seen what it specialises, and what the start moved is where it stays."""
_ENGINES: tuple[Engine, ...] = ("ours", "library")
_MODEL_PATH = "/v1/chat/completions"
_MODEL_BODY = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}


def measure(scale: Scale) -> list[Figure]:
    with sides(*(name for pair in PAIRS for name in pair)) as every:
        return uvloop.run(_measure(scale, every))


async def _measure(scale: Scale, every: Sides) -> list[Figure]:
    found = Found()
    for side in every.in_turn(0):
        for kind in KINDS:
            await drive(side, kind, "warm-up", sessions=1, runs=_WARM_UP_RUNS)
    submitted = []
    for sessions in SESSIONS:
        for number in range(scale.times(*_ROUNDS[sessions])):
            await _round(scale, every, sessions, number, found)
            if sessions == SESSIONS[-1]:
                calls = scale.times(12_000, 4_000)
                found.model.append(await ask(every.model.url, _MODEL_PATH, _MODEL_BODY, times=calls))
                submitted.append(await submits(every, number, scale.times(200, 30)))
    runs, limits = rows(found)
    return [*runs, *submit_figures(submitted), *limits]


async def _round(scale: Scale, every: Sides, sessions: int, number: int, found: Found) -> None:
    runs = scale.times(*_RUNS[sessions])
    for kind in KINDS:
        if sessions == 1:
            for engine in _ENGINES:
                took_s = await _bare_call(every, kind, engine, scale.times(40, 20))
                found.bare_call_s[kind.key, engine].append(took_s)
        for side in every.in_turn(number):
            driven = await drive(side, kind, f"{number}-{sessions}", sessions=sessions, runs=runs)
            found.driven[side.name, kind.key, sessions].append(driven)


async def _bare_call(every: Sides, kind: Kind, engine: Engine, times: int) -> float:
    """Of what the sides send in the first run of a session: instructions, tools and the message."""
    standing = standing_request(every.place.workspace)
    messages = [*standing["messages"], {"role": "user", "content": kind.content}]
    body = orjson.dumps({**standing, "messages": messages})
    seconds: list[float] = []
    async with calling(every.model.url, engine) as call:
        for _ in range(times):
            began = time.perf_counter()
            await call(body)
            seconds.append(time.perf_counter() - began)
    return median(seconds)
