"""What the rows of turns and sizes are computed from."""

from __future__ import annotations

import os

import pytest

from bench.load import Client, clients, share
from bench.memory import peak_mb, resident_mb
from bench.turns import _WARM_UP, NUMBERS, _Cost, _figure, _Last, _tapped, _Turn

pytestmark = pytest.mark.anyio


def turn(whole_ms: float, call_ms: float) -> _Turn:
    return _Turn(
        whole=_Cost(wall_ms=10 * whole_ms, cpu_ms=whole_ms),
        call=_Cost(wall_ms=10 * call_ms, cpu_ms=call_ms),
        prompt_kb=1,
        first_use_ms=0,
    )


def test_a_turn_is_compared_by_what_it_costs_beyond_its_model_call() -> None:
    rounds = {1: [turn(5, 1), turn(6, 1)], 50: [turn(9, 3), turn(8, 2)]}

    processor, wall = (_figure("key", rounds, 50, cpu=cpu) for cpu in (True, False))

    assert (processor.daemon.median, wall.daemon.median) == (6, 60)
    assert processor.beside is not None
    assert processor.beside.median == 4.5
    assert processor.ratio is not None
    assert (processor.ratio.low, processor.ratio.high) == (1.2, 1.5)


@pytest.mark.parametrize("number", NUMBERS[1:])
@pytest.mark.parametrize("turns", [12, 40])
def test_the_turns_that_stand_for_one_are_its_last_tenth(number: int, turns: int) -> None:
    last = _Last.of(number, turns)

    assert last.timed <= number / 10
    assert turns <= last.timed * last.sessions < turns + last.timed
    assert number - last.timed - _WARM_UP >= 1


async def test_the_tap_keeps_the_last_request_and_answers_like_the_model_server() -> None:
    async with _tapped() as tap, Client(tap.url) as client:
        await client.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "first"}]})
        answer = await client.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "second"}]})

    assert answer.endswith(b"data: [DONE]\n\n")
    assert tap.body == b'{"messages":[{"role":"user","content":"second"}]}'


async def test_connections_share_the_sessions_there_are() -> None:
    done: list[str] = []

    async def work(client: Client, session_id: str) -> None:
        await client.post("/", {"content": session_id})
        done.append(session_id)

    async with _tapped() as tap, clients(tap.url, None, 3) as connections:
        await share(connections, ["a", "b", "c", "d", "e"], work)

    assert sorted(done) == ["a", "b", "c", "d", "e"]


def test_memory_is_read_of_a_process() -> None:
    resident, peak = resident_mb(os.getpid()), peak_mb(os.getpid())

    assert resident > 1
    assert peak is None or peak >= 1
