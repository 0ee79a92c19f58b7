"""Rows of watched streams: the first token, live streams on one core, one run watched by many.

Beside the daemon stands a bare relay: the same HTTP client and server and nothing else. It keeps no runs, so it can be
overtaken: where the daemon reads a model's stream or writes its own with less, its ratio says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import uvloop

from bench.fan_out import WATCHERS, fan_out
from bench.figures import Figure, Scale, figure
from bench.first_token import LIVE, first_tokens
from bench.held import LATE_MS, PER_S, Step
from bench.live_streams import STEPS, Patience, carried, search
from bench.processes import Child
from bench.watched import Name, Place, place
from bench.watchers import Lateness

NAMES: tuple[Name, ...] = ("daemon", "relay")
_QUICK_STEPS = (STEPS[0], 250, 400, STEPS[-1])
_QUICKLY = Patience(hold_s=0.8, begin_s=5.0)
_FULLY = Patience(hold_s=3.0, begin_s=10.0)
_LIKELY: dict[Name, int | None] = {"daemon": None, "relay": STEPS[-1]}
"""What a search begins from before there was a round; a relay that carries less is searched for from below."""
_NEVER_MS = 10_000.0
"""Stands for the lateness of a token that did not come."""


def measure(scale: Scale) -> list[Figure]:
    """Each row for both servers, in turn, for all rounds."""
    with place() as where:
        with where.server("daemon") as daemon, where.server("relay") as relay:
            servers: dict[Name, Child] = {"daemon": daemon, "relay": relay}
            figures = [*_first_token(scale, where, servers), *_fan_out(scale, where, servers)]
        return [*figures, *_live(scale, where)]


@dataclass(kw_only=True, slots=True)
class _Rounds:
    """What each server did, round by round."""

    steps: dict[Name, list[list[Step]]] = field(default_factory=lambda: {name: [] for name in NAMES})

    def of(self, value: Callable[[list[Step]], float]) -> tuple[list[float], list[float]]:
        daemon, relay = ([_bounded(value(steps)) for steps in self.steps[name]] for name in NAMES)
        return daemon, relay


def _in_turn(number: int) -> Sequence[Name]:
    """Who goes first alternates with the round."""
    return NAMES if number % 2 == 0 else NAMES[::-1]


def _bounded(value: float) -> float:
    return value if math.isfinite(value) else _NEVER_MS


def _first_token(scale: Scale, where: Place, servers: dict[Name, Child]) -> list[Figure]:
    found: dict[Name, list[Lateness]] = {name: [] for name in NAMES}
    samples = scale.times(full=40, quick=8)
    for number in range(scale.rounds):
        for name in _in_turn(number):
            found[name].append(uvloop.run(first_tokens(name, where, servers[name], samples=samples)))
    return [
        figure(
            f"streams.first_token.{key}_ms",
            f"first token to its watcher, {LIVE} live runs, {key}",
            "ms",
            [getattr(lateness, key) for lateness in found["daemon"]],
            [getattr(lateness, key) for lateness in found["relay"]],
            beside_name="relay",
            aim="within 5 ms" if key == "p50" else "",
            note=f"{samples} runs a round; server {where.cores.note}" if key == "p50" else "",
        )
        for key in ("p50", "p95")
    ]


def _fan_out(scale: Scale, where: Place, servers: dict[Name, Child]) -> list[Figure]:
    rounds = _Rounds()
    hold_s = scale.times(full=3, quick=1)
    for number in range(scale.times(full=scale.rounds, quick=1)):
        for name in _in_turn(number):
            step = uvloop.run(fan_out(name, where, servers[name], hold_s=hold_s))
            rounds.steps[name].append([step])
    last = rounds.steps["daemon"][-1][0]
    note = f"daemon {100 * last.server_use:.0f} % of its core, {last.load_note}; server {where.cores.note}"
    what = f"1 run at {PER_S} tokens/s, {WATCHERS} watchers"
    rows: Sequence[tuple[str, str, str, Callable[[list[Step]], float]]] = (
        ("p50_ms", f"{what}: lateness p50", "ms", lambda steps: steps[0].lateness.p50),
        ("p95_ms", f"{what}: lateness p95", "ms", lambda steps: steps[0].lateness.p95),
        ("us_per_event", f"{what}: processor time an event", "us", lambda steps: steps[0].us_per_token),
    )
    return [
        figure(
            f"streams.fan_out.{key}",
            row,
            unit,
            *rounds.of(value),
            beside_name="relay",
            note=note if key == "p50_ms" else "",
        )
        for key, row, unit, value in rows
    ]


def _live(scale: Scale, where: Place) -> list[Figure]:
    rounds = _Rounds()
    steps, patience = (_QUICK_STEPS, _QUICKLY) if scale.quick else (STEPS, _FULLY)
    for number in range(scale.times(full=scale.rounds, quick=1)):
        for name in _in_turn(number):
            known = rounds.steps[name]
            guess = carried(known[-1]) if known else _LIKELY[name]
            known.append(search(name, where, steps, patience, guess))
    daemon, relay = (_told(rounds.steps[name][-1]) for name in NAMES)
    note = f"server {where.cores.note}. Daemon, last round: {daemon}. Relay: {relay}"
    cost = figure(
        "streams.live.us_per_token",
        f"live streams: processor time a token at {STEPS[0]} runs",
        "us",
        *rounds.of(_cost),
        beside_name="relay",
        note="of the daemon, from the model's bytes to its watcher's",
    )
    most = figure(
        "streams.live.carried",
        f"live watched runs at {PER_S} tokens/s on one core",
        "streams",
        *rounds.of(lambda steps: max(carried(steps), 1)),
        beside_name="relay",
        better="higher",
        aim="at least 250 streams",
        note=f"the median token is late by at most {LATE_MS:g} ms and none is lost; "
        f"{steps[-1]} is the most that is tried; {note}",
    )
    return [most, cost]


def _cost(steps: Sequence[Step]) -> float:
    """Of the first step, or of the nearest that began at all."""
    begun = [step for step in steps if step.lateness.count]
    return min(begun, key=lambda step: abs(step.streams - STEPS[0])).us_per_token if begun else math.inf


def _told(steps: Sequence[Step]) -> str:
    busiest = max(steps, key=lambda step: step.model_use + step.watchers_use)
    return "; ".join(str(step) for step in steps) + f" ({busiest.load_note})"
