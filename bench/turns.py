"""What one more turn costs in a long session, beyond its model call: turn 50, 200 and 2,000 beside turn 1.

Sessions with all turns but the last few are made beforehand. The first turn in one of them after the start reads its
journal and has a row of its own; then come the last turns up to N, timed one by one: a tenth of N at most, in as many
sessions as it takes. Beside them stand the first turns of fresh sessions, with whatever only a session's first turn has
to do. A turn is a text input that a model answers at once, so its prompt holds the messages of N turns.

That prompt has to be sent and read by any agent, whatever its daemon does. So the request of turn N is caught, and the
very same JSON, its messages as bytes that exist already, is sent to the same model server, and its answer decoded, with
the daemon's own HTTP client and decoder and nothing around them. A figure is the difference of the two: what the daemon
adds to turn N, making and writing the prompt of the conversation included. In the row with a small window the prompt
itself stays small, as the session is condensed again and again.

Processor time is the server process's, all threads: the aim is for it. Time is from the request to the answer, medians,
and most of it belongs to the two commits of a turn, which wait for the disk.
"""

from __future__ import annotations

import asyncio
import math
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvloop

from bench.copies import copy_session
from bench.figures import Figure, Scale, figure
from bench.load import Client
from bench.model_server import ModelProtocol, Pacer
from bench.processes import TOKEN, Child, child, serve
from bench.seeding import Place, live
from bench.watched import no_garbage_pauses
from kheish.providers.chat_completions import ChatDecoder
from kheish.providers.transport import ModelEndpoint, new_model_client

FIRST, LAST = 1, 2_000
NUMBERS = (FIRST, 50, 200, LAST)
LARGE, SMALL = 128_000, 8_000
"""Tokens of the model's window: the first holds the whole prompt of turn 2,000."""
_WARM_UP = 4
_INPUT = {"content": "hi"}
_HERE = Path(__file__).parent
_ROUTES = """
default_route = "bench"

[routes.bench]
driver = "openai_compatible"
default_model = "m"
base_url = "{model}/v1"
context_window_tokens = {window}

[routes.tap]
driver = "openai_compatible"
default_model = "m"
base_url = "{tap}/v1"
context_window_tokens = {window}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Cost:
    """Of one turn, or of one model call by itself."""

    wall_ms: float
    cpu_ms: float

    def __sub__(self, other: _Cost) -> _Cost:
        return _Cost(wall_ms=self.wall_ms - other.wall_ms, cpu_ms=self.cpu_ms - other.cpu_ms)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Turn:
    """Turn N in one round."""

    whole: _Cost
    call: _Cost
    """Its model call by itself."""
    prompt_kb: float
    first_use_ms: float

    @property
    def beyond(self) -> _Cost:
        return self.whole - self.call


_Rounds = dict[int, list[_Turn]]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Last:
    """The turns that stand for turn N, in one round."""

    timed: int
    """In each session."""
    sessions: int

    @classmethod
    def of(cls, number: int, turns: int) -> _Last:
        timed = max(1, min(turns, number // 10))
        return cls(timed=timed, sessions=math.ceil(turns / timed))


def measure(scale: Scale) -> list[Figure]:
    turns = scale.times(40, 12)
    with tempfile.TemporaryDirectory(prefix="kheish-bench-") as folder:
        place = Place(root=Path(folder))
        place.prepare()
        seeded = place.root / "seeded"
        asyncio.run(live(place, seeded, {"seed": "hi"}))
        for number in NUMBERS[1:]:
            last = _Last.of(number, turns)
            for each in range(scale.rounds):
                copy_session(
                    seeded / "kheish.db",
                    "seed",
                    f"turn-{number}-{each}",
                    sessions=last.sessions,
                    turns=number - last.timed - _WARM_UP,
                )
        with child([sys.executable, str(_HERE / "model_server.py")], place.root / "model.log") as model:
            large = uvloop.run(_measure(place, model, LARGE, NUMBERS, scale.rounds, turns))
            small = uvloop.run(_measure(place, model, SMALL, (FIRST, LAST), scale.rounds, turns))
    return [
        *(_figure(f"turn.{number}.cpu", large, number, cpu=True) for number in NUMBERS[1:]),
        _figure(f"turn.{LAST}.wall", large, LAST, cpu=False),
        _figure(f"turn.{LAST}.small_window.cpu", small, LAST, cpu=True, window=f", window of {SMALL:,} tokens"),
        figure(
            f"turn.{LAST}.first_use",
            f"turn {LAST:,}, the first use after a start",
            "ms",
            [turn.first_use_ms for turn in large[LAST]],
            [turn.whole.wall_ms for turn in large[LAST]],
            beside_name="the next ones",
        ),
    ]


def _figure(key: str, rounds: _Rounds, number: int, *, cpu: bool, window: str = "") -> Figure:
    def value(cost: _Cost) -> float:
        return cost.cpu_ms if cpu else cost.wall_ms

    def median(costs: Sequence[_Cost]) -> float:
        return statistics.median(map(value, costs))

    found = rounds[number]
    kind = "processor time" if cpu else "time"
    return figure(
        key,
        f"turn {number:,} beyond its model call, {kind}{window}",
        "ms",
        [value(turn.beyond) for turn in found],
        [value(turn.beyond) for turn in rounds[FIRST]],
        beside_name="turn 1",
        aim="at most 1.5 x" if cpu else "",
        note=f"{median([turn.whole for turn in found]):.1f} ms in all, {median([turn.call for turn in found]):.1f} ms "
        f"the call with its prompt of {statistics.median(turn.prompt_kb for turn in found):.0f} KB; "
        "turn 1 is a session's first",
    )


async def _measure(place: Place, model: Child, window: int, numbers: Sequence[int], rounds: int, turns: int) -> _Rounds:
    shutil.rmtree(place.state, ignore_errors=True)
    shutil.copytree(place.root / "seeded", place.state)
    found: _Rounds = {number: [] for number in numbers}
    async with _tapped() as tap:
        place.routes.write_text(_ROUTES.format(model=model.url, tap=tap.url, window=window))
        with _daemon(place) as daemon:
            async with Client(daemon.url, TOKEN) as client:
                for name in await _opened(client, "warm-up", _WARM_UP):
                    await _turn(client, name)
                for each in range(rounds):
                    for number in numbers:
                        found[number].append(await _one(daemon, client, model, tap, number, each, turns))
    return found


@contextmanager
def _daemon(place: Place) -> Iterator[Child]:
    command = serve(state=place.state, workspace=place.workspace, routes=place.routes)
    with child(command, place.root / "daemon.log", kept=False) as process:
        yield process


async def _one(daemon: Child, client: Client, model: Child, tap: _Tapped, number: int, each: int, turns: int) -> _Turn:
    first_use_ms = 0.0
    if number == FIRST:
        *names, tapped = await _opened(client, f"turn-1-{each}", turns + 1)
    else:
        last = _Last.of(number, turns)
        sessions = [f"turn-{number}-{each}-{session}" for session in range(last.sessions)]
        tapped, names = sessions[0], sessions * last.timed
        first_use_ms = statistics.median([await _turn(client, name) for name in sessions])
        for name in sessions * (_WARM_UP - 1):
            await _turn(client, name)
    before = daemon.cpu_s() or 0.0
    walls = [await _turn(client, name) for name in names]
    cpu_ms = ((daemon.cpu_s() or 0.0) - before) * 1000 / len(names)
    await client.post(f"/v1/sessions/{tapped}/input", {**_INPUT, "provider": "tap"})
    return _Turn(
        whole=_Cost(wall_ms=statistics.median(walls), cpu_ms=cpu_ms),
        call=await _calls(model, tap.body, turns),
        prompt_kb=len(tap.body) / 1024,
        first_use_ms=first_use_ms,
    )


async def _opened(client: Client, name: str, count: int) -> list[str]:
    names = [f"{name}-{number}" for number in range(count)]
    for each in names:
        await client.post("/v1/sessions", {"session_id": each})
    return names


async def _turn(client: Client, session_id: str) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    await client.post(f"/v1/sessions/{session_id}/input", _INPUT)
    return (time.perf_counter() - began) * 1000


# The model call by itself


async def _calls(model: Child, body: bytes, times: int) -> _Cost:
    """Send the request some times; without looks for garbage, which a daemon hardly takes either."""
    walls: list[float] = []
    with no_garbage_pauses():
        async with aclosing(new_model_client()) as client:
            endpoint = ModelEndpoint(
                provider="bench", url=f"{model.url}/v1/chat/completions", client=client, headers={}
            )
            for number in range(_WARM_UP + times):
                if number == _WARM_UP:
                    before = time.process_time()
                began = time.perf_counter()
                async for _ in endpoint.stream(body, ChatDecoder("bench")):
                    pass
                walls.append((time.perf_counter() - began) * 1000)
            cpu_ms = (time.process_time() - before) * 1000 / times
    return _Cost(wall_ms=statistics.median(walls[_WARM_UP:]), cpu_ms=cpu_ms)


class _Tap(ModelProtocol):
    """A model server that keeps what it was asked."""

    def __init__(self, heard: bytearray) -> None:
        super().__init__(Pacer())
        self._heard = heard

    def data_received(self, data: bytes) -> None:
        self._heard += data
        super().data_received(data)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tapped:
    """Where the model server with the tap listens."""

    url: str
    heard: bytearray

    @property
    def body(self) -> bytes:
        """Of the last request."""
        return bytes(self.heard).rpartition(b"\r\n\r\n")[2]


@asynccontextmanager
async def _tapped() -> AsyncIterator[_Tapped]:
    heard = bytearray()
    server = await asyncio.get_running_loop().create_server(lambda: _Tap(heard), "127.0.0.1", 0)
    async with server:
        yield _Tapped(url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", heard=heard)
