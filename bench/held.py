"""What watched streams did for some seconds: how late their tokens were, and who used how much of a core meanwhile."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

import orjson

from bench.load import Client
from bench.model_server import now_us
from bench.processes import Child
from bench.watchers import Arrivals, Lateness

PER_S = 50
"""Tokens of each stream."""
ENDLESS = 1_000_000
"""Tokens of an answer that goes on until the model server is told to end all."""
MESSAGE = f"stream {ENDLESS} tokens at {PER_S} per second"
LATE_MS = 100.0
"""The median token of a step that is carried is no later."""
SETTLE_S = 0.3
"""After the last start: what starting costs is no part of a step."""
NAP_S = 0.001
"""Between two looks of the watchers."""
_AHEAD_US = 50_000
"""The watchers listen that long before a step begins."""
_LOOK_EVERY_S = 0.1
_LOOKS = 20
"""For the last tokens of a step; those that come later are lost."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """So many streams, watched together."""

    streams: int
    lateness: Lateness
    lost: int = 0
    hold_s: float = 0.0
    server_use: float = 0.0
    """Of one core, 1.0 is all of it."""
    model_use: float = 0.0
    watchers_use: float = 0.0
    pace_p95_ms: float = 0.0
    """How late the model server itself was."""
    waited: float = 0.0
    """Of the time, how much the server was ready to go on and somebody else had its core."""

    @property
    def carried(self) -> bool:
        """Also not when the model server fell behind: fewer tokens came than were meant to."""
        return not self.lost and self.lateness.p50 <= LATE_MS and self.pace_p95_ms <= LATE_MS

    @property
    def us_per_token(self) -> float:
        """Processor time of the server for one token that arrived, in microseconds."""
        return 1e6 * self.server_use * self.hold_s / max(self.lateness.count, 1)

    def __str__(self) -> str:
        if not self.lateness.count:
            return f"{self.streams}: not all had a first token in time"
        lost = f", {self.lost} lost" if self.lost else ""
        return (
            f"{self.streams}: p50 {self.lateness.p50:.1f} p95 {self.lateness.p95:.1f} ms{lost}, "
            f"{100 * self.server_use:.0f} % of a core"
        )

    @property
    def load_note(self) -> str:
        """Shows that the load was not the slow part."""
        return (
            f"model server {100 * self.model_use:.0f} %, watchers {100 * self.watchers_use:.0f} % of their core, "
            f"pace kept within {self.pace_p95_ms:.1f} ms (p95); "
            f"others had the server's core {100 * self.waited:.0f} % of the time"
        )

    @classmethod
    def not_begun(cls, streams: int) -> Step:
        """The server did not even start them in time."""
        return cls(streams=streams, lateness=Lateness(p50=float("inf"), p95=float("inf"), count=0))


@dataclass(frozen=True, kw_only=True, slots=True)
class Loop:
    """Who takes part: the server, the model server before it, and this process that watches."""

    server: Child
    model: Child
    control: Client
    """Of the model server."""
    arrivals: Arrivals

    async def hold(self, *, streams: int, hold_s: float, watchers_each: int = 1) -> Step:
        """Watch what goes on for so long, once starts are over, then wait for what was written meanwhile."""
        await asyncio.sleep(SETTLE_S)
        from_us = now_us() + _AHEAD_US
        until_us = from_us + int(hold_s * 1e6)
        self.arrivals.expect(from_us, until_us)
        await asyncio.sleep(_AHEAD_US / 1e6)
        began, before, waited = time.perf_counter(), self._cpu_s(), _waited_s(self.server)
        await asyncio.sleep(hold_s)
        after, waited, span_s = self._cpu_s(), _waited_s(self.server) - waited, time.perf_counter() - began
        used = [(now - then) / span_s for now, then in zip(after, before, strict=True)]
        kept = orjson.loads(await self.control.get(f"/pace?from={from_us}&until={until_us}"))
        expected = kept["tokens"] * watchers_each
        for _ in range(_LOOKS):
            await asyncio.sleep(_LOOK_EVERY_S)
            if len(self.arrivals.read()) >= expected:
                break
        late_us = self.arrivals.read()
        self.arrivals.forget()
        missing = max(expected - len(late_us), 0)
        return Step(
            streams=streams,
            lateness=Lateness.of(late_us, missing),
            lost=missing,
            hold_s=hold_s,
            server_use=used[0],
            model_use=used[1],
            watchers_use=used[2],
            pace_p95_ms=kept["p95_late_us"] / 1000,
            waited=waited / span_s,
        )

    async def open_streams(self) -> int:
        """Answers the model server has begun and not ended."""
        told: dict[str, int] = orjson.loads(await self.control.get("/pace?from=0&until=0"))
        return told["open"]

    def _cpu_s(self) -> tuple[float, float, float]:
        return self.server.cpu_s() or 0.0, self.model.cpu_s() or 0.0, time.process_time()


def _waited_s(process: Child) -> float:
    """How long its main thread has stood in line for a core so far; 0 where the system does not tell."""
    try:
        return int(Path(f"/proc/{process.pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0
