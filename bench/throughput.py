"""Runs per second, the processor time of one, and what a run takes beyond its model calls: daemon beside floor."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Literal

import orjson
import uvloop

from bench.figures import Figure, Scale, figure
from bench.floor import asked, model_client, model_target, standing_request
from bench.limits import Answered, ask
from bench.sides import NO_TOOL, ONE_TOOL, Driven, Kind, Sides, drive, sides
from bench.submits import Submits, submit_figures, submits

KINDS = (NO_TOOL, ONE_TOOL)
RUNS_BY_SESSIONS = {1: (400, 50), 16: (60, 6), 64: (15, 2)}
"""How many runs each session makes in a full and in a quick run."""
_MODEL_PATH = "/v1/chat/completions"
_MODEL_BODY = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
_LEAST_S = 1e-6
_LEAST_RUNS = "at least 0.4 (wanted: 0.6)"
_MOST_OVERHEAD = {50: 2.5, 95: 3.0}
"""Times the floor's, by percentile."""
LIBRARY = "floor on the library"
Floor = Literal["floor", "library"]
FLOORS: tuple[Floor, ...] = ("floor", "library")
Load = tuple[str, int]
"""The kind of the runs and how many sessions make them at the same time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """Everything that was measured side by side."""

    daemon: dict[Load, Driven]
    floor: dict[Load, Driven]
    library: dict[Load, Driven]
    bare_call_s: dict[tuple[str, Floor], float]
    """The median of a first model call by itself, by kind of run, with the HTTP client of this floor."""
    model: Answered
    submits: Submits

    def beyond_calls(self, driven: dict[Load, Driven], kind: Kind, client: Floor) -> list[float]:
        """Milliseconds of each run of one session, less its model calls with this client."""
        calls_s = kind.calls * self.bare_call_s[kind.key, client]
        return [max(seconds - calls_s, _LEAST_S) * 1000 for seconds in driven[kind.key, 1].seconds]

    def floor_calls_per_s(self) -> float:
        """The most model calls the floor made in a second."""
        return max(self.floor[kind.key, sessions].per_s * kind.calls for kind in KINDS for sessions in RUNS_BY_SESSIONS)


def measure(scale: Scale) -> list[Figure]:
    with sides() as both:
        rounds = uvloop.run(_measure(scale, both))
    loads = [(kind, sessions) for kind in KINDS for sessions in RUNS_BY_SESSIONS]
    return [
        *(found for kind, sessions in loads for found in _throughput(rounds, kind, sessions)),
        *(found for kind, sessions in loads for found in _processor(rounds, kind, sessions)),
        *(found for kind in KINDS for percentile in (50, 95) for found in _overhead(rounds, kind, percentile)),
        *submit_figures([each.submits for each in rounds]),
        *_never_the_slow_part(rounds),
    ]


async def _measure(scale: Scale, both: Sides) -> list[Round]:
    for side in both.all_in_turn(0):
        for kind in KINDS:
            await drive(side, kind, "warm-up", sessions=4, runs=5)
    return [await _round(scale, both, number) for number in range(scale.rounds)]


async def _round(scale: Scale, both: Sides, number: int) -> Round:
    driven: dict[str, dict[Load, Driven]] = {"daemon": {}, "floor": {}, "library": {}}
    bare_call_s: dict[tuple[str, Floor], float] = {}
    for kind in KINDS:
        for client in FLOORS:
            bare_call_s[kind.key, client] = await _bare_call(both, kind, client, scale.times(200, 60))
        for sessions, runs in RUNS_BY_SESSIONS.items():
            for side in both.all_in_turn(number):
                found = await drive(side, kind, f"{number}-{sessions}", sessions=sessions, runs=scale.times(*runs))
                driven[side.name][kind.key, sessions] = found
    return Round(
        daemon=driven["daemon"],
        floor=driven["floor"],
        library=driven["library"],
        bare_call_s=bare_call_s,
        model=await ask(both.model.url, _MODEL_PATH, _MODEL_BODY, times=scale.times(12_000, 4_000)),
        submits=await submits(both, number, scale.times(200, 30)),
    )


async def _bare_call(both: Sides, kind: Kind, client: Floor, times: int) -> float:
    """Of what the sides send in the first run of a session: instructions, tools and the message."""
    standing = standing_request(both.place.workspace)
    messages = [*standing["messages"], {"role": "user", "content": kind.content}]
    body = orjson.dumps({**standing, "messages": messages})
    seconds: list[float] = []
    async with aclosing(model_client(client)) as calling:
        target = model_target(calling, both.model.url)
        for _ in range(times):
            began = time.perf_counter()
            await asked(target, body)
            seconds.append(time.perf_counter() - began)
    return median(seconds)


def _throughput(rounds: Sequence[Round], kind: Kind, sessions: int) -> list[Figure]:
    key, row = f"throughput.{kind.key}.{sessions}", f"runs, {kind.label}, {_counted(sessions)}"
    daemon = [each.daemon[kind.key, sessions].per_s for each in rounds]
    floor = [each.floor[kind.key, sessions].per_s for each in rounds]
    library = [each.library[kind.key, sessions].per_s for each in rounds]
    return [
        figure(f"{key}.library", row, "runs/s", daemon, library, beside_name=LIBRARY, better="higher", aim=_LEAST_RUNS),
        figure(key, row, "runs/s", daemon, floor, better="higher", aim=_LEAST_RUNS),
    ]


def _processor(rounds: Sequence[Round], kind: Kind, sessions: int) -> list[Figure]:
    """Beside each floor; nothing where the system does not tell."""

    def spent_ms(side: Callable[[Round], dict[Load, Driven]]) -> list[float]:
        spent = [side(each)[kind.key, sessions].cpu_s for each in rounds]
        return [seconds * 1000 for seconds in spent if seconds]

    daemon, floor = spent_ms(lambda each: each.daemon), spent_ms(lambda each: each.floor)
    library = spent_ms(lambda each: each.library)
    if not len(daemon) == len(floor) == len(library) == len(rounds):
        return []
    key, row = f"processor.{kind.key}.{sessions}", f"processor time of a run, {kind.label}, {_counted(sessions)}"
    return [
        figure(f"{key}.library", row, "ms", daemon, library, beside_name=LIBRARY),
        figure(key, row, "ms", daemon, floor),
    ]


def _overhead(rounds: Sequence[Round], kind: Kind, percentile: int) -> list[Figure]:
    """Beside each floor; what a bare call takes with a side's own client is taken off."""
    calls = "its model call" if kind.calls == 1 else f"its {kind.calls} model calls"
    key, row = f"overhead.{kind.key}.p{percentile}", f"a run beyond {calls}, {kind.label}, p{percentile}"
    bare_ms = {client: median(each.bare_call_s[kind.key, client] for each in rounds) * 1000 for client in FLOORS}
    daemon = [_percentile(each.beyond_calls(each.daemon, kind, "floor"), percentile) for each in rounds]
    floor = [_percentile(each.beyond_calls(each.floor, kind, "floor"), percentile) for each in rounds]
    library = [_percentile(each.beyond_calls(each.library, kind, "library"), percentile) for each in rounds]
    note = f"1 session; a bare call takes {bare_ms['floor']:.2f} ms, on the library {bare_ms['library']:.2f} ms, median"
    aim = f"at most {_MOST_OVERHEAD[percentile]:g} x"
    return [
        figure(f"{key}.library", row, "ms", daemon, library, beside_name=LIBRARY, aim=aim, note=note),
        figure(key, row, "ms", daemon, floor, aim=aim),
    ]


def _never_the_slow_part(rounds: Sequence[Round]) -> list[Figure]:
    """The model server and the load client beside the fastest they had to keep up with."""
    most = [each.floor_calls_per_s() for each in rounds]
    return [
        figure(
            "limit.model_server",
            "the fake model server by itself",
            "calls/s",
            [each.model.per_s for each in rounds],
            most,
            better="higher",
            note="beside the most model calls the floor made: it is never the slow part",
        ),
        figure(
            "limit.load_client",
            "the load client by itself",
            "requests/s",
            [1 / each.model.client_cpu_s for each in rounds],
            most,
            better="higher",
            note="requests for a second of its processor time, beside the same",
        ),
    ]


def _percentile(values: Sequence[float], percentile: int) -> float:
    return quantiles(values, n=100)[percentile - 1]


def _counted(sessions: int) -> str:
    return "1 session" if sessions == 1 else f"{sessions} sessions"
