"""The metrics of a real process: its own figures, and what recovery counted after a kill."""

from __future__ import annotations

import sys
from collections.abc import Callable

import httpx2
import pytest

from tests.e2e.daemon_process import Daemon, wait_for_text
from tests.fakes.model_server import Answer, Call, ModelServer, Request, Response
from tests.telemetry.collector import collecting
from tests.telemetry.scraped import OPENMETRICS, Scraped

pytestmark = pytest.mark.e2e

Served = Callable[..., tuple[Daemon, ModelServer]]


def scrape(daemon: Daemon) -> Scraped:
    response = httpx2.get(daemon.url + "/metrics", headers={"accept": OPENMETRICS}, timeout=30)
    assert response.status_code == 200
    return Scraped(response.text)


def test_after_a_kill_in_the_middle_of_a_command_recovery_is_counted(served: Served) -> None:
    # The command leaves a child behind that no signal of the kernel reaches when the daemon dies.
    command = "sleep 600 & echo $! > child; wait"

    def respond(request: Request) -> Response:
        call = Call(name="bash", arguments={"command": command})
        return Answer(text="done") if request.tool_results else Answer(calls=[call])

    daemon, _ = served(respond, arguments=("--permission-mode", "bypass-permissions"))
    run_id = daemon.submit(daemon.session())
    wait_for_text(daemon.workspace / "child", "\n")
    assert scrape(daemon).value("kheish_recovery_resumed_runs_total") == 0
    daemon.restart()
    assert daemon.wait(run_id)["status"] == "completed"

    found = scrape(daemon)
    assert found.value("kheish_recovery_resumed_runs_total") == 1
    assert found.value("kheish_recovery_in_doubt_calls_total") == 1
    if sys.platform == "linux":
        assert found.value("kheish_recovery_killed_processes_total") == 1
    assert found.labelled("kheish_tool_calls_total") == {("in_doubt", "bash"): 1}
    assert found.value("kheish_runs_ended_total", status="completed") == 1
    assert found.value("kheish_runs", status="completed") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_tells_its_memory_and_its_processor_time(daemon: Daemon) -> None:
    found = scrape(daemon)

    assert found.value("process_resident_memory_bytes") > 10_000_000
    assert found.value("process_cpu_seconds_total") > 0
    assert found.value("process_start_time_seconds") > 1_000_000_000


def test_spans_of_a_killed_process_and_of_its_successor_are_one_trace(served: Served) -> None:
    def respond(request: Request) -> Response:
        call = Call(name="bash", arguments={"command": "echo started > started; exec sleep 600"})
        return Answer(text="done") if request.tool_results else Answer(calls=[call])

    with collecting() as collector:
        env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_EXPORTER_OTLP_HEADERS": "x-key=hunter2",
            "OTEL_SERVICE_NAME": "agents",
        }
        daemon, _ = served(respond, arguments=("--permission-mode", "bypass-permissions"), env=env)
        run_id = daemon.submit(daemon.session())
        wait_for_text(daemon.workspace / "started", "\n")
        collector.wait_for("chat m")
        daemon.restart()
        assert daemon.wait(run_id)["status"] == "completed"
        assert daemon.terminate() == 0

    run, tool = collector.one("invoke_agent"), collector.one("execute_tool bash")
    assert (run.attributes["kheish.run.resumed"], run.attributes["kheish.run.id"]) == (True, run_id)
    assert tool.attributes["kheish.tool.outcome"] == "in_doubt"
    assert len(collector.named("chat m")) == 2
    assert {span.trace_id for span in collector.spans} == {run.trace_id}
    assert run.resource["service.name"] == "agents"
    assert collector.headers[0]["x-key"] == "hunter2"
    assert "hunter2" not in daemon.log()
