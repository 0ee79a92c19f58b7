"""How many live runs at 50 tokens a second each, every one watched, one core carries.

`python -m bench.live_streams --steps 100,250` looks at these steps alone.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import orjson
import uvloop

from bench.load import Client
from bench.model_server import now_us
from bench.watched import ENDLESS, Name, Place, Side, no_garbage_pauses, place, side, start_many
from bench.watchers import DEADLINE_S, Arrivals, Lateness

PER_S = 50
LATE_MS = 100.0
"""The median token of a step that is carried is no later."""
_SETTLE_S = 0.5
_LOOK_EVERY_S = 0.02
_LOOKS = 100
"""For the last tokens of a step; those that come later are lost."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What so many streams did for some seconds."""

    streams: int
    lateness: Lateness
    lost: int = 0
    server_use: float = 0.0
    """Of one core, 1.0 is all of it."""
    model_use: float = 0.0
    watchers_use: float = 0.0
    pace_p95_ms: float = 0.0
    """How late the model server itself was."""

    @property
    def carried(self) -> bool:
        return not self.lost and self.lateness.p50 <= LATE_MS

    @property
    def us_per_token(self) -> float:
        """Processor time of the server for one token on its way through, in microseconds."""
        return 1e6 * self.server_use / (self.streams * PER_S)

    def __str__(self) -> str:
        if not self.lateness.count:
            return f"{self.streams}: not all had a first token within {DEADLINE_S:g} s"
        lost = f", {self.lost} lost" if self.lost else ""
        return (
            f"{self.streams}: p50 {self.lateness.p50:.1f} p95 {self.lateness.p95:.1f} ms{lost}, "
            f"{100 * self.server_use:.0f} % of a core, {self.us_per_token:.0f} us a token"
        )

    @property
    def load_note(self) -> str:
        """Shows that the load was not the slow part."""
        return (
            f"model server {100 * self.model_use:.0f} %, watchers {100 * self.watchers_use:.0f} % of their core, "
            f"pace kept within {self.pace_p95_ms:.1f} ms (p95)"
        )


async def climb(name: Name, where: Place, steps: Sequence[int], hold_s: float) -> list[Step]:
    """Each step on top of the one before, until one is not carried."""
    done: list[Step] = []
    arrivals = Arrivals()
    streams = 0
    with where.server(name) as process, no_garbage_pauses():
        async with side(name, process) as server, Client(where.model.url) as model:
            for wanted in steps:
                message = f"stream {ENDLESS} tokens at {PER_S} per second"
                try:
                    await start_many(server, wanted - streams, message, arrivals)
                except TimeoutError:
                    done.append(Step(streams=wanted, lateness=Lateness.of(arrivals.late_us[:0], missing=1)))
                    break
                streams = wanted
                await asyncio.sleep(_SETTLE_S)
                done.append(await hold(server, model, where, arrivals, streams=streams, hold_s=hold_s))
                if not done[-1].carried:
                    break
            await model.post("/end", {})
    return done


async def hold(server: Side, model: Client, where: Place, arrivals: Arrivals, *, streams: int, hold_s: float) -> Step:
    """Watch what goes on for some seconds."""
    from_us = now_us()
    arrivals.expect(from_us, from_us + int(hold_s * 1e6))
    before = (server.process.cpu_s() or 0.0, where.model.cpu_s() or 0.0, time.process_time())
    await asyncio.sleep(hold_s)
    after = (server.process.cpu_s() or 0.0, where.model.cpu_s() or 0.0, time.process_time())
    span_s = (now_us() - from_us) / 1e6
    used = [(now - then) / span_s for now, then in zip(after, before, strict=True)]
    kept = orjson.loads(await model.get(f"/pace?from={from_us}&until={from_us + int(hold_s * 1e6)}"))
    for _ in range(_LOOKS):
        if len(arrivals.late_us) >= kept["tokens"]:
            break
        await asyncio.sleep(_LOOK_EVERY_S)
    missing = kept["tokens"] - len(arrivals.late_us)
    return Step(
        streams=streams,
        lateness=Lateness.of(arrivals.late_us, missing),
        lost=missing,
        server_use=used[0],
        model_use=used[1],
        watchers_use=used[2],
        pace_p95_ms=kept["p95_late_us"] / 1000,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", default="50,100,150,200,250,300,400,500", help="streams, ascending")
    parser.add_argument("--hold", type=float, default=3.0, help="seconds a step")
    parser.add_argument("--side", choices=("daemon", "relay", "both"), default="both")
    options = parser.parse_args()
    steps = [int(step) for step in options.steps.split(",")]
    names: tuple[Name, ...] = ("daemon", "relay") if options.side == "both" else (options.side,)
    with place() as where:
        print(where.cores.note)
        for name in names:
            for step in uvloop.run(climb(name, where, steps, options.hold)):
                print(f"{name:<7} {step}; {step.load_note}", flush=True)


if __name__ == "__main__":
    main()
