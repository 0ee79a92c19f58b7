"""Budgets of model calls: what a route, a session and a run may use, over restarts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kheish.core.messages import Usage
from kheish.engine.budgets import Spent
from kheish.engine.entries import RouteRef
from kheish.usage.store import UsageLedger
from tests.engine.world import FakeClock
from tests.fakes.model_server import Answer, Call, ModelServer, Refusal, Request, Response
from tests.http.house import House, opened

pytestmark = pytest.mark.anyio

ROUTES = """
default_route = "main"
{routes}
"""
ROUTE = """
[routes.{name}]
driver = "openai_compatible"
default_model = "m"
base_url = "{url}"
prices."*" = {{ input = 0, output = 1000000 }}
"""


@asynccontextmanager
async def serving(
    root: Path, answer: Response | Callable[[Request], Response], **options: Any
) -> AsyncIterator[tuple[House, ModelServer]]:
    """A daemon with two routes to the same model server; each output token costs a dollar."""
    with ModelServer(answer) as server:
        routes = "".join(ROUTE.format(name=name, url=server.url) for name in ("main", "other"))
        async with opened(root, routes=ROUTES.format(routes=routes), **options) as house:
            yield house, server


async def ended(house: House, session: str = "s", **fields: Any) -> Any:
    run = await house.submit("go", session, **fields)
    await house.settled(session)
    return await house.run(run["run_id"])


async def test_a_reply_over_the_route_budget_fails_the_turn(tmp_path: Path) -> None:
    """providers-and-routes case 17."""
    answer = Answer(text="x", output_tokens=11)
    async with serving(tmp_path, answer, model_budget_max_total_output_tokens=10) as (house, server):
        await house.session()
        view = await ended(house)

        assert (view["status"], len(server.requests)) == ("failed", 1)
        budget = "the model budget of the route 'main' with the model 'm' in the last 24 h"
        assert view["error"] == f"{budget} is used up: 11 of 10 output tokens"
        assert view["usage"]["output_tokens"] == 11

        again = await ended(house)
        assert (again["status"], len(server.requests)) == ("failed", 1)  # nothing is left: nothing is sent
        assert again["error"] == view["error"]

        other = await ended(house, provider="other")
        assert len(server.requests) == 2
        assert "the route 'other'" in other["error"]


async def test_a_reply_that_just_fits_is_the_last_one_and_a_restart_forgets_nothing(tmp_path: Path) -> None:
    answer = Answer(text="x", output_tokens=5)
    options = {"model_budget_max_total_output_tokens": 10}
    async with serving(tmp_path, answer, **options) as (house, _):
        await house.session()
        assert (await ended(house))["status"] == "completed"
    async with serving(tmp_path, answer, **options) as (house, _):
        assert (await ended(house))["status"] == "completed"
    async with serving(tmp_path, answer, **options) as (house, server):
        view = await ended(house)

        assert (view["status"], server.requests) == ("failed", [])
        assert "10 of 10 output tokens" in view["error"]


async def test_a_session_budget_in_dollars_is_the_sessions_own(tmp_path: Path) -> None:
    answer = Answer(text="x", output_tokens=2)
    async with serving(tmp_path, answer, model_budget_max_session_cost_usd=3.5) as (house, server):
        await house.session("s")
        await house.session("t")
        first = await ended(house)
        assert first["usage"]["cost_usd"] == 2.0
        second = await ended(house)
        third = await ended(house)

        assert (second["status"], third["status"], len(server.requests)) == ("failed", "failed", 2)
        assert second["error"] == "the model budget of this session is used up: 4.0000 of 3.5 US dollars"
        assert (await ended(house, "t"))["status"] == "completed"
    async with serving(tmp_path, answer, model_budget_max_session_cost_usd=3.5) as (house, server):
        assert (await ended(house))["status"] == "failed"
        assert server.requests == []


async def test_a_run_budget_counts_the_turns_of_the_run_alone(tmp_path: Path) -> None:
    def answer(request: Request) -> Response:
        return Answer(calls=[Call(name="list_files", id=f"c{request.number}")], output_tokens=4)

    async with serving(tmp_path, answer, model_budget_max_run_output_tokens=10) as (house, server):
        await house.session()
        for expected in (3, 6):
            view = await ended(house)

            assert (view["status"], len(server.requests)) == ("failed", expected)
            assert view["error"] == "the model budget of this run is used up: 12 of 10 output tokens"


async def test_a_refused_request_uses_nothing_of_a_budget_and_no_ceiling_is_none(tmp_path: Path) -> None:
    async with serving(tmp_path, Refusal(status=400), model_budget_max_total_output_tokens=1) as (house, server):
        await house.session()
        for _ in range(2):
            assert "HTTP 400" in (await ended(house))["error"]
        assert len(server.requests) == 2
    big = Answer(text="x", output_tokens=2_000_000)
    unlimited = {"model_budget_max_total_output_tokens": 0, "model_budget_max_total_cost_usd": 0.0}
    async with serving(tmp_path, big, **unlimited) as (house, _):
        assert [(await ended(house))["status"] for _ in range(2)] == ["completed", "completed"]


async def test_the_default_budget_is_a_million_output_tokens(tmp_path: Path) -> None:
    big = Answer(text="x", output_tokens=1_000_001)
    async with serving(tmp_path, big, model_budget_max_total_cost_usd=0.0) as (house, _):
        await house.session()
        assert "1000001 of 1000000 output tokens" in (await ended(house))["error"]


async def test_a_routes_usage_leaves_its_budget_after_the_period_and_a_sessions_never(tmp_path: Path) -> None:
    async with serving(tmp_path, Answer(text="x", output_tokens=5)) as (house, _):
        await house.session()
        at_ms = (await ended(house))["finished_at_ms"]
        database = house.daemon.board._database
        route = RouteRef(route_id="main", driver="openai_compatible", model="m")

        used: dict[tuple[int, int], Usage] = {}
        for later_h, period_h in ((0, 24), (23, 24), (24, 24), (24, 25), (10_000, 0)):
            clock = FakeClock(at_ms + later_h * 3_600_000)
            ledger = UsageLedger(database=database, clock=clock, period_hours=period_h)
            await database.read(ledger.load)
            spent = await ledger.spent("s", route)
            used[later_h, period_h] = spent.route
            assert spent.session == Usage(input_tokens=10, output_tokens=5, cost_usd=5.0)
        assert [usage.output_tokens for usage in used.values()] == [5, 5, 0, 5, 5]
        assert (await ledger.spent("t", replace(route, model="n"))) == Spent()
        assert await ledger.spent(None, route) == Spent(route=spent.route)


async def test_totals_that_cannot_be_read_stop_no_run(tmp_path: Path) -> None:
    async with serving(tmp_path, Answer(text="x")) as (house, _):
        await house.session()
        await house.daemon.board._database.write(
            lambda transaction: transaction.connection.execute("ALTER TABLE usage_by_hour RENAME COLUMN hour TO lost")
        )
        ledger = UsageLedger(database=house.daemon.board._database, clock=FakeClock(), period_hours=24)
        await house.daemon.board._database.read(ledger.load)
        route = RouteRef(route_id="main", driver="openai_compatible", model="m")

        assert await ledger.spent("s", route) == Spent()


async def test_usage_counts_again_when_a_clock_that_was_ahead_comes_back(tmp_path: Path) -> None:
    async with serving(tmp_path, Answer(text="x", output_tokens=5)) as (house, _):
        await house.session()
        at_ms = (await ended(house))["finished_at_ms"]
        clock = FakeClock(at_ms)
        database = house.daemon.board._database
        ledger = UsageLedger(database=database, clock=clock, period_hours=24)
        clock.jump(48 * 3_600_000)
        await database.read(ledger.load)
        route = RouteRef(route_id="main", driver="openai_compatible", model="m")
        ahead = await ledger.spent("s", route)
        clock.jump(-48 * 3_600_000)

        assert ahead.route == Usage()
        assert (await ledger.spent("s", route)).route.output_tokens == 5
