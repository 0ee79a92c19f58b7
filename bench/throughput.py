"""Runs per second, the processor time of one, and what a run takes beyond its model calls: daemon beside floor."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

import orjson
import uvloop

from bench.figures import Figure, Scale, figure
from bench.floor import standing_request
from bench.limits import Answered, ask
from bench.sides import NO_TOOL, ONE_TOOL, Driven, Kind, Sides, drive, sides
from bench.submits import Submits, submit_figures, submits
from kheish.providers.transport import new_client

KINDS = (NO_TOOL, ONE_TOOL)
RUNS_BY_SESSIONS = {1: (400, 60), 16: (60, 10), 64: (15, 3)}
"""How many runs each session makes in a full and in a quick run."""
_MODEL_PATH = "/v1/chat/completions"
_MODEL_BODY = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
_LEAST_S = 1e-6
Load = tuple[str, int]
"""The kind of the runs and how many sessions make them at the same time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """Everything that was measured side by side."""

    daemon: dict[Load, Driven]
    floor: dict[Load, Driven]
    library: dict[Load, Driven]
    bare_call_s: dict[str, float]
    """By kind of run: the median of its first model call by itself, with the HTTP client of both sides."""
    model: Answered
    submits: Submits

    def beyond_calls(self, driven: dict[Load, Driven], kind: Kind) -> list[float]:
        """Milliseconds of each run of one session, less its model calls."""
        calls_s = kind.calls * self.bare_call_s[kind.key]
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
        *(_overhead(rounds, kind, *asked) for kind in KINDS for asked in ((50, 2.5), (95, 3.0))),
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
    bare_call_s: dict[str, float] = {}
    for kind in KINDS:
        bare_call_s[kind.key] = await _bare_call(both, kind, scale.times(200, 60))
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


async def _bare_call(both: Sides, kind: Kind, times: int) -> float:
    """Of what both sides send in the first run of a session: instructions, tools and the message."""
    standing = standing_request(both.place.workspace)
    messages = [*standing["messages"], {"role": "user", "content": kind.content}]
    body, url = orjson.dumps({**standing, "messages": messages}), f"{both.model.url}{_MODEL_PATH}"
    seconds: list[float] = []
    async with new_client() as client:
        for _ in range(times):
            began = time.perf_counter()
            async with client.stream("POST", url, content=body) as response:
                async for _line in response.aiter_lines():
                    pass
            seconds.append(time.perf_counter() - began)
    return median(seconds)


def _throughput(rounds: Sequence[Round], kind: Kind, sessions: int) -> list[Figure]:
    key, row = f"throughput.{kind.key}.{sessions}", f"runs, {kind.label}, {_counted(sessions)}"
    daemon = [each.daemon[kind.key, sessions].per_s for each in rounds]
    floor = [each.floor[kind.key, sessions].per_s for each in rounds]
    library = [each.library[kind.key, sessions].per_s for each in rounds]
    return [
        figure(key, row, "runs/s", daemon, floor, better="higher", aim="at least 0.4 (wanted: 0.6)"),
        figure(f"{key}.library", row, "runs/s", daemon, library, beside_name="floor on the library", better="higher"),
    ]


def _processor(rounds: Sequence[Round], kind: Kind, sessions: int) -> list[Figure]:
    """One figure, or none where the system does not tell."""

    def spent_ms(side: Callable[[Round], dict[Load, Driven]]) -> list[float]:
        spent = [side(each)[kind.key, sessions].cpu_s for each in rounds]
        return [seconds * 1000 for seconds in spent if seconds]

    daemon, floor = spent_ms(lambda each: each.daemon), spent_ms(lambda each: each.floor)
    if not len(daemon) == len(floor) == len(rounds):
        return []
    key, row = f"processor.{kind.key}.{sessions}", f"processor time of a run, {kind.label}, {_counted(sessions)}"
    return [figure(key, row, "ms", daemon, floor)]


def _overhead(rounds: Sequence[Round], kind: Kind, percentile: int, most: float) -> Figure:
    calls = "its model call" if kind.calls == 1 else f"its {kind.calls} model calls"
    bare_ms = median(each.bare_call_s[kind.key] for each in rounds) * 1000
    return figure(
        f"overhead.{kind.key}.p{percentile}",
        f"a run beyond {calls}, {kind.label}, p{percentile}",
        "ms",
        [_percentile(each.beyond_calls(each.daemon, kind), percentile) for each in rounds],
        [_percentile(each.beyond_calls(each.floor, kind), percentile) for each in rounds],
        aim=f"at most {most:g} x",
        note=f"1 session; a bare call with the same HTTP client takes {bare_ms:.2f} ms, median",
    )


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
