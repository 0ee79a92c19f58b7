"""Loads of runs: who stands beside whom, in which order they are driven, and what their rows are computed from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from bench import throughput
from bench.aims import verdict
from bench.figures import Figure, Scale
from bench.limits import Answered
from bench.processes import Child, environment
from bench.run_rows import KINDS, SESSIONS, Found, engine, rows
from bench.seeding import Place
from bench.sides import BEHIND_A_PROXY, PAIRS, Driven, Kind, Name, Side, Sides
from bench.submits import Submits
from kheish.providers.http1_pool import Http1Client
from kheish.providers.http_library import LibraryClient
from kheish.providers.transport import new_model_client

PER_S: dict[Name, float] = {"daemon": 100, "floor": 400, "library_daemon": 50, "library_floor": 100}
RUN_MS: dict[Name, float] = {"daemon": 7, "floor": 3, "library_daemon": 14, "library_floor": 9}
CALL_MS = {"ours": 1.0, "library": 4.0}


def driven(name: Name) -> Driven:
    return Driven(per_s=PER_S[name], seconds=(RUN_MS[name] / 1000,) * 10, cpu_s=RUN_MS[name] / 2000)


def whole() -> Found:
    found = Found(model=[Answered(per_s=10_000, client_cpu_s=0.0001)] * 3)
    for name in PER_S:
        for kind in KINDS:
            found.bare_call_s[kind.key, engine(name)][:] = [CALL_MS[engine(name)] / 1000] * 2
            for sessions in SESSIONS:
                found.driven[name, kind.key, sessions] += [driven(name)] * 2
    return found


def named(figures: Sequence[Figure]) -> dict[str, Figure]:
    return {each.key: each for each in figures}


def ratio(figure: Figure) -> float:
    assert figure.ratio is not None
    return round(figure.ratio.median, 3)


def test_both_daemons_are_judged_beside_the_loop_that_anybody_would_write() -> None:
    figures = named(rows(whole())[0])

    same, library, mixed = (figures[f"throughput.no_tool.1{end}"] for end in ("", ".same_library", ".library"))

    assert (same.beside_name, ratio(same), verdict(same)) == ("floor", 0.25, "")
    assert (library.beside_name, ratio(library), verdict(library)) == ("floor on the library", 0.5, "met")
    assert (mixed.beside_name, ratio(mixed), verdict(mixed)) == ("floor on the library", 1.0, "met")
    assert [each.row for each in (same, library, mixed)] == [
        "runs, no tool, 1 session",
        "runs, no tool, 1 session, daemon on the library",
        "runs, no tool, 1 session",
    ]
    runs = [each for key, each in figures.items() if key.startswith(("throughput.", "overhead."))]
    assert all(bool(each.aim) == (each.beside_name == "floor on the library") for each in runs)


def test_what_a_model_call_takes_with_the_sides_own_client_is_taken_off_of_both() -> None:
    figures = named(rows(whole())[0])

    ratios = [ratio(figures[f"overhead.no_tool.p50{end}"]) for end in ("", ".same_library", ".library")]

    assert ratios == [(7 - 1) / (3 - 1), (14 - 4) / (9 - 4), round((7 - 1) / (9 - 4), 3)]
    assert "a bare call, on the library, takes 4.00 ms" in figures["overhead.no_tool.p50.same_library"].note


def test_no_row_of_processor_time_stands_where_the_system_does_not_tell() -> None:
    found = whole()
    untold = Driven(per_s=1, seconds=(1.0, 1.0), cpu_s=None)
    found.driven["library_daemon", "no_tool", 1][:] = [untold, untold]

    figures = named(rows(found)[0])

    assert "processor.no_tool.1.same_library" not in figures
    assert figures["processor.no_tool.1"].daemon.median == 3.5


def test_keys_of_rows_are_their_own() -> None:
    runs, limits = rows(whole())

    assert len(named([*runs, *limits])) == len(runs) + len(limits) == 3 * (6 + 6 + 4) + 2


def some_sides() -> Sides:
    nowhere = Child(url="http://127.0.0.1:9", pid=0)
    started: dict[Name, Side] = {name: Side(name=name, child=nowhere) for name in PER_S}
    return Sides(started=started, model=nowhere, place=Place(root=Path(throughput.__file__).parent))


def test_the_two_of_a_pair_follow_each_other_and_each_goes_first_as_often() -> None:
    turns = [[side.name for side in some_sides().in_turn(number)] for number in range(4)]

    assert all({turn[:2] == [*pair] or turn[:2] == [*pair[::-1]] for pair in PAIRS} == {True, False} for turn in turns)
    assert {turn[0] for turn in turns} == set(PER_S)
    assert [side.name for side in some_sides().in_turn(1, pairs=1)] == ["daemon", "floor"]


@pytest.mark.anyio
async def test_a_load_has_all_its_rounds_before_one_with_more_connections_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[int] = []

    async def drive(side: Side, kind: Kind, tag: str, *, sessions: int, runs: int) -> Driven:
        done.append(sessions)
        return driven(side.name)

    async def bare_call(*_: object) -> float:
        return 0.001

    async def ask(*_: object, times: int) -> Answered:
        done.append(SESSIONS[-1])
        return Answered(per_s=times, client_cpu_s=1)

    async def submits(*_: object) -> Submits:
        done.append(SESSIONS[-1])
        return {"daemon": [1.0, 1.0], "floor": [1.0, 1.0]}

    for stand_in in (drive, ask, submits):
        monkeypatch.setattr(throughput, stand_in.__name__, stand_in)
    monkeypatch.setattr(throughput, "_bare_call", bare_call)

    figures = named(await throughput._measure(Scale(quick=True), some_sides()))

    assert done == sorted(done)
    rounds = [figures[f"throughput.one_tool.{sessions}"].daemon.rounds for sessions in SESSIONS]
    assert min(rounds) >= 2
    assert max(rounds) == rounds[0]


def test_a_daemon_that_is_told_of_a_proxy_calls_models_through_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.environ", environment())
    ours = new_model_client()
    monkeypatch.setattr("os.environ", {**environment(), **BEHIND_A_PROXY})
    library = new_model_client()

    assert isinstance(ours, Http1Client)
    assert isinstance(library, LibraryClient)
