"""SIGHUP: the routes file is read again, whole or not at all."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.daemon_process import Daemon, wait_for
from tests.fakes.model_server import Answer, Call, ModelServer, Request

pytestmark = pytest.mark.e2e
ROUTE = """
[routes.{name}]
driver = "openai_compatible"
default_model = "{name}-model"
base_url = "{url}"
"""


@pytest.fixture
def two() -> Any:
    with ModelServer(answer("first")) as first, ModelServer(answer("second")) as second:
        yield first, second


def answer(name: str) -> Callable[[Request], Answer]:
    def respond(request: Request) -> Answer:
        if "wait" in request.user_text and not request.tool_results:
            return Answer(calls=[Call(name="bash", arguments={"command": "true"})])
        return Answer(text=name)

    return respond


def reload(daemon: Daemon, routes: str, said: str) -> None:
    daemon.routes_file.write_text(routes)
    before = daemon.log().count(said)
    daemon.signal(signal.SIGHUP)
    wait_for(lambda: daemon.log().count(said) > before, "nothing was reloaded", daemon.log)


def output(daemon: Daemon, run_id: str) -> str:
    return str(daemon.wait(run_id)["outputs"][-1]["content"])


def test_new_routes_count_for_new_runs_and_a_waiting_run_keeps_its_own(
    daemon_for: Callable[..., Daemon], two: tuple[ModelServer, ModelServer]
) -> None:
    first, second = two
    old = ROUTE.format(name="a", url=first.url)
    daemon = daemon_for(old)
    daemon.session()
    daemon.session("waiting")
    waiting = daemon.submit("waiting", "wait")
    daemon.wait(waiting, "waiting_for_approval")
    assert output(daemon, daemon.submit("demo")) == "first"

    both = 'default_route = "b"\n' + old + ROUTE.format(name="b", url=second.url)
    reload(daemon, both, "daemon.routes_reloaded")
    runtime = daemon.call("GET", "/v1/runtime")
    assert (runtime["route_id"], [route["route_id"] for route in runtime["routes"]]) == ("b", ["b", "a"])
    assert output(daemon, daemon.submit("demo")) == "second"
    assert output(daemon, daemon.submit("demo", provider="a")) == "first"
    daemon.allow_all(waiting)
    assert output(daemon, waiting) == "first"


def test_a_file_that_cannot_be_used_changes_nothing(
    daemon_for: Callable[..., Daemon], two: tuple[ModelServer, ModelServer]
) -> None:
    good = ROUTE.format(name="a", url=two[0].url)
    daemon = daemon_for(good)
    daemon.session()
    before = daemon.call("GET", "/v1/runtime")
    for broken in ("", "[routes.a]\n", good + "unknown = 1\n", good.replace("driver", "[driver")):
        reload(daemon, broken, "daemon.routes_not_reloaded")
    assert daemon.call("GET", "/v1/runtime") == before
    assert output(daemon, daemon.submit("demo")) == "first"


def test_a_route_that_is_gone_fails_the_run_that_is_pinned_to_it_by_name(
    daemon_for: Callable[..., Daemon], two: tuple[ModelServer, ModelServer]
) -> None:
    daemon = daemon_for(ROUTE.format(name="a", url=two[0].url))
    waiting = daemon.submit(daemon.session(), "wait")
    daemon.wait(waiting, "waiting_for_approval")
    reload(daemon, ROUTE.format(name="b", url=two[1].url), "daemon.routes_reloaded")
    daemon.allow_all(waiting)
    ended = daemon.wait(waiting)

    assert ended["status"] == "failed"
    assert "'a'" in ended["error"]
    assert daemon.call("GET", "/v1/runtime")["route_id"] == "b"
    assert output(daemon, daemon.submit("demo")) == "second"


def test_a_default_an_operator_chose_outlives_a_reload(
    daemon_for: Callable[..., Daemon], two: tuple[ModelServer, ModelServer]
) -> None:
    both = ROUTE.format(name="a", url=two[0].url) + ROUTE.format(name="b", url=two[1].url)
    daemon = daemon_for('default_route = "a"\n' + both)
    daemon.call("POST", "/v1/runtime/model", {"provider": "b", "model": "b-model"})
    reload(daemon, 'default_route = "a"\n' + both + "# edited\n", "daemon.routes_reloaded")

    assert daemon.call("GET", "/v1/runtime")["route_id"] == "b"
