"""How many live runs at 50 tokens a second each, every one watched, one core carries.

`python -m bench.live_streams --steps 100,250` looks at these steps alone.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import uvloop

from bench.held import MESSAGE, NAP_S, Loop, Step
from bench.load import Client
from bench.watched import Name, Place, Side, all_begun, no_garbage_pauses, place, side, start_many
from bench.watchers import Arrivals, Watchers

STEPS = (100, 150, 200, 250, 300, 350, 400, 500)
"""Model server and watchers alone, on one core together, keep the pace of 500 and not of 600."""
_LOOK_EVERY_S = 0.02
_LOOKS = 1000
_LOW_STEPS = (25, 50, 75)
"""For a machine that does not even carry the first of the others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """Seconds."""

    hold_s: float
    """How long a step is watched."""
    begin_s: float
    """How long all streams of a step may take to have their first token."""


async def climb(name: Name, where: Place, steps: Sequence[int], patience: Patience) -> list[Step]:
    """Each step on top of the one before, until one is not carried or has not begun in time."""
    done: list[Step] = []
    arrivals = Arrivals()
    streams = 0
    with where.server(name) as process, no_garbage_pauses(), Watchers(nap_s=NAP_S) as watchers:
        async with side(name, process, watchers) as server, Client(where.model.url) as control:
            loop = Loop(server=process, model=where.model, control=control, arrivals=arrivals)
            for wanted in steps:
                try:
                    async with asyncio.timeout(patience.begin_s):
                        await _begin(server, loop, wanted - streams, wanted)
                except TimeoutError:
                    done.append(Step.not_begun(wanted))
                    break
                streams = wanted
                done.append(await loop.hold(streams=streams, hold_s=patience.hold_s))
                if not done[-1].carried:
                    break
            await control.post("/end", {})
    return done


async def _begin(server: Side, loop: Loop, more: int, total: int) -> None:
    """Let more streams begin while the others pause: what starting costs is another row."""
    await loop.control.post("/pause", {})
    watchers = await start_many(server, more, MESSAGE, loop.arrivals)
    for _ in range(_LOOKS):
        if await loop.open_streams() >= total:
            break
        await asyncio.sleep(_LOOK_EVERY_S)
    await loop.control.post("/resume", {})
    await all_begun(watchers)


def carried(steps: Sequence[Step]) -> int:
    """The largest step that was carried; 0 when none was."""
    return max((step.streams for step in steps if step.carried), default=0)


def search(name: Name, where: Place, steps: Sequence[int], patience: Patience, guess: int | None) -> list[Step]:
    """Climb all steps, or with a guess the first and those from one below the guess."""
    if guess is not None and guess in steps[2:]:
        near = [steps[0], *steps[steps.index(guess) - 1 :]]
        found = uvloop.run(climb(name, where, near, patience))
        if carried(found) > steps[0]:
            return found
    found = uvloop.run(climb(name, where, steps, patience))
    return found if carried(found) else [*uvloop.run(climb(name, where, _LOW_STEPS, patience)), *found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", default=",".join(map(str, STEPS)), help="streams, ascending")
    parser.add_argument("--hold", type=float, default=3.0, help="seconds a step")
    parser.add_argument("--side", choices=("daemon", "relay", "both"), default="both")
    options = parser.parse_args()
    steps = [int(step) for step in options.steps.split(",")]
    names: tuple[Name, ...] = ("daemon", "relay") if options.side == "both" else (options.side,)
    with place() as where:
        print(where.cores.note)
        for name in names:
            for step in uvloop.run(climb(name, where, steps, Patience(hold_s=options.hold, begin_s=10.0))):
                print(f"{name:<7} {step}, {step.us_per_token:.0f} us a token; {step.load_note}", flush=True)


if __name__ == "__main__":
    main()
