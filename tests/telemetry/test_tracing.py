"""Spans of real runs, received by a collector on a real socket; what tracing must never do."""

from __future__ import annotations

import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from kheish.daemon.composition import open_daemon
from kheish.daemon.settings import from_options
from kheish.telemetry.span_queue import SpanQueue
from kheish.telemetry.spans import Span
from kheish.telemetry.tracing import TracingRefused, TracingSettings, open_spans, tracing_settings
from tests.http.house import ROUTES, House
from tests.telemetry.collector import Collector, collecting
from tests.telemetry.scraped import OPENMETRICS, Scraped

pytestmark = pytest.mark.anyio

SCRIPT = """
[[rules]]
name = "one command"
when = { turn = 0, user = "work" }
calls = [{ tool = "bash", input = { command = "echo hunter2-output" } }]
usage = { input_tokens = 100, output_tokens = 10, cached_input_tokens = 60 }

[[rules]]
name = "a tool nobody has"
when = { turn = 0, user = "invent" }
calls = [{ tool = "hunter2_tool", input = {} }]

[[rules]]
name = "a file that is not there"
when = { turn = 0, user = "miss" }
calls = [{ tool = "read_file", input = { path = "hunter2.txt" } }]

[[rules]]
name = "think forever"
when = { user = "think forever" }
text = "hm"
hang = true

[[rules]]
name = "fail"
when = { user = "break" }
error = { kind = "auth", status = 401, retryable = false }

[fallback]
text = "hunter2-answer"
usage = { input_tokens = 200, output_tokens = 20, cached_input_tokens = 100 }
"""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as found:
        yield found


@asynccontextmanager
async def traced(root: Path, environ: Mapping[str, str], **options: object) -> AsyncIterator[House]:
    """A daemon with this environment; leaving it drains."""
    workspace = root / "workspace"
    workspace.mkdir(exist_ok=True)
    (root / "routes.toml").write_text(ROUTES)
    (root / "script.toml").write_text(SCRIPT)
    given = {
        "state_root": str(root / "state"),
        "workspace_root": str(workspace),
        "routes_file": str(root / "routes.toml"),
        "permission_mode": "bypassPermissions",
        **options,
    }
    async with open_daemon(from_options(given, environ)) as daemon:
        await daemon.start()
        transport = httpx2.ASGITransport(app=daemon.app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            yield House(daemon, client, workspace)
            await daemon.drain(20)


def sending_to(collector: Collector) -> dict[str, str]:
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url}


async def test_a_run_is_a_tree_of_turns_model_calls_and_tools(tmp_path: Path, collector: Collector) -> None:
    async with traced(tmp_path, sending_to(collector)) as house:
        await house.session()
        await house.submit("work hunter2-prompt")
        await house.settled()
        view = await house.run("run-1")

    run, tool = collector.one("invoke_agent"), collector.one("execute_tool bash")
    turns, calls = collector.named("turn"), collector.named("chat model-one")
    assert [turn.attributes["kheish.turn"] for turn in turns] == [1, 2]
    assert [turn.parent_id for turn in turns] == [run.span_id] * 2
    assert [call.parent_id for call in calls] == [turn.span_id for turn in turns]
    assert tool.parent_id == turns[0].span_id
    assert run.parent_id == b""
    assert len({span.trace_id for span in collector.spans}) == 1
    assert len({span.span_id for span in collector.spans}) == len(collector.spans) == 6
    assert (run.start_ms, run.end_ms) == (view["started_at_ms"], view["finished_at_ms"])
    for child, parent in (
        (tool, turns[0]),
        (calls[0], turns[0]),
        (calls[1], turns[1]),
        (turns[0], run),
        (turns[1], run),
    ):
        assert parent.start_ms <= child.start_ms <= child.end_ms <= parent.end_ms
    assert calls[0].end_ms <= tool.start_ms
    assert not any(span.failed for span in collector.spans)


async def test_spans_speak_the_conventions_of_generative_models(tmp_path: Path, collector: Collector) -> None:
    async with traced(tmp_path, sending_to(collector)) as house:
        await house.session()
        await house.submit("work")
        await house.settled()

    run, tool, call = (collector.named(name)[0] for name in ("invoke_agent", "execute_tool bash", "chat model-one"))
    same = {"gen_ai.conversation.id": "s", "kheish.run.id": "run-1"}
    assert run.attributes == {
        **same,
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.id": run.attributes["gen_ai.agent.id"],
        "gen_ai.provider.name": "scripted",
        "gen_ai.request.model": "model-one",
        "gen_ai.usage.input_tokens": 300,
        "gen_ai.usage.output_tokens": 30,
        "gen_ai.usage.cache_read.input_tokens": 160,
        "kheish.route.id": "one",
        "kheish.run.status": "completed",
        "kheish.run.turns": 2,
        "kheish.run.resumed": False,
        "kheish.run.queued_ms": run.attributes["kheish.run.queued_ms"],
    }
    assert call.attributes == {
        **same,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "scripted",
        "gen_ai.request.model": "model-one",
        "gen_ai.response.finish_reasons": ["tool_calls"],
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 10,
        "gen_ai.usage.cache_read.input_tokens": 60,
        "kheish.route.id": "one",
        "kheish.model.attempt": 1,
    }
    assert tool.attributes == {
        **same,
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "bash",
        "gen_ai.tool.type": "function",
        "gen_ai.tool.call.id": tool.attributes["gen_ai.tool.call.id"],
        "kheish.tool.outcome": "ok",
        "kheish.tool.attempt": 1,
    }
    assert (call.kind, tool.kind, run.kind) == (3, 1, 1)
    assert (run.resource["service.name"], run.resource["telemetry.sdk.name"]) == ("kheish-daemon", "opentelemetry")


async def test_failures_say_what_kind_they_are(tmp_path: Path, collector: Collector) -> None:
    async with traced(tmp_path, sending_to(collector)) as house:
        await house.session()
        for text in ("break", "miss", "invent"):
            await house.submit(text)
            await house.settled()

    failed = {span.name: span.attributes["error.type"] for span in collector.spans if span.failed}
    assert failed == {"chat model-one": "auth", "invoke_agent": "failed", "execute_tool read_file": "error"}
    assert not any("hunter2" in span.name for span in collector.spans)


async def test_nothing_that_anybody_wrote_is_in_a_span(tmp_path: Path, collector: Collector) -> None:
    async with traced(tmp_path, sending_to(collector)) as house:
        await house.session()
        for text in ("work hunter2-prompt", "invent", "miss", "break hunter2"):
            await house.submit(text)
            await house.settled()

    assert len(collector.named("invoke_agent")) == 4
    assert not any(b"hunter2" in body for body in collector.bodies)


async def test_a_run_that_goes_on_after_a_restart_is_a_second_span_of_the_same_trace(
    tmp_path: Path, collector: Collector
) -> None:
    async with traced(tmp_path, sending_to(collector)) as before:
        await before.session()
        await before.submit("think forever")
        await before.seen("run_updated", lambda event: event["run"]["status"] == "running")
        await before.daemon.drain(0)
    async with traced(tmp_path, sending_to(collector)) as after:
        await after.post("/v1/runs/run-1/cancel")

    first, second = collector.named("invoke_agent")
    told = [(span.attributes["kheish.run.resumed"], span.attributes["kheish.run.status"]) for span in (first, second)]
    assert told == [(False, "running"), (True, "cancelled")]
    assert first.trace_id == second.trace_id
    assert first.span_id != second.span_id
    assert first.end_ms <= second.start_ms
    assert {span.attributes["kheish.run.id"] for span in (first, second)} == {"run-1"}


async def test_a_run_cancelled_in_the_queue_has_done_nothing_to_trace(tmp_path: Path, collector: Collector) -> None:
    async with traced(tmp_path, sending_to(collector)) as house:
        await house.session()
        for text in ("think forever", "later"):
            await house.submit(text)
        for run_id in ("run-2", "run-1"):
            await house.post(f"/v1/runs/{run_id}/cancel")

    assert collector.one("invoke_agent").attributes["kheish.run.id"] == "run-1"


async def test_the_metrics_count_what_became_of_spans(tmp_path: Path, collector: Collector) -> None:
    collector.status = 400
    async with traced(tmp_path, sending_to(collector)) as house:
        await house.session()
        await house.submit("work")
        await house.settled()
        await house.daemon.drain(20)
        text = (await house.client.get("/metrics", headers={"accept": OPENMETRICS})).text
        assert (await house.run("run-1"))["status"] == "completed"

    found = Scraped(text)
    assert (found.value("kheish_spans_exported_total"), found.value("kheish_spans_dropped_total")) == (0, 6)


async def test_a_collector_that_does_not_answer_holds_up_no_run_and_no_stop(
    tmp_path: Path, collector: Collector
) -> None:
    collector.hold = threading.Event()
    async with traced(tmp_path, sending_to(collector)) as house:
        await house.session()
        await house.submit("work")
        await house.settled()
        assert (await house.run("run-1"))["status"] == "completed"
        await house.daemon.drain(0)
        assert collector.asked.is_set()

    assert collector.spans == []


class _Stuck:
    """A sink that waits until it is closed."""

    def __init__(self) -> None:
        self.sent: list[Span] = []
        self.entered = threading.Event()
        self.closed = threading.Event()

    def send(self, spans: Sequence[Span]) -> bool:
        self.sent += spans
        self.entered.set()
        return self.closed.wait(30)

    def close(self) -> None:
        self.closed.set()


def _span(number: int) -> Span:
    return Span(name="s", trace_id=1, span_id=number, parent_id=None, started_at_ms=0, ended_at_ms=0, attributes={})


async def test_a_full_queue_drops_and_counts() -> None:
    sink = _Stuck()
    queue = SpanQueue(sink)
    queue.offer(_span(number) for number in range(1, 513))
    assert sink.entered.wait(30)
    queue.offer(_span(number) for number in range(1, 5001))
    assert queue.counts.dropped == 5000 - 4096

    sink.close()
    await queue.close(30)
    assert (queue.counts.exported, queue.counts.dropped) == (512 + 4096, 5000 - 4096)


async def test_a_sink_that_breaks_costs_its_batch_only() -> None:
    class Broken(_Stuck):
        def send(self, spans: Sequence[Span]) -> bool:
            raise RuntimeError("a bug in the exporter")

    queue = SpanQueue(Broken())
    queue.offer([_span(1)])
    await queue.close(30)
    assert (queue.counts.exported, queue.counts.dropped) == (0, 1)


@pytest.mark.parametrize(
    ("environ", "endpoint"),
    [
        ({}, None),
        ({"KHEISH_OTEL": "1"}, "http://localhost:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/"}, "http://c:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c/x"}, "http://c/x/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c/own"}, "http://c/own"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "KHEISH_OTEL": "0"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_SDK_DISABLED": "TRUE"}, None),
        ({"KHEISH_OTEL": "1", "OTEL_TRACES_EXPORTER": "none"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, None),
    ],
)
def test_the_environment_turns_tracing_on_and_off(environ: dict[str, str], endpoint: str | None) -> None:
    found = tracing_settings(environ)
    assert (None if found is None else found.endpoint) == endpoint


def test_a_switch_that_is_neither_on_nor_off_is_refused() -> None:
    with pytest.raises(TracingRefused, match="KHEISH_OTEL"):
        tracing_settings({"KHEISH_OTEL": "maybe"})


FAULTS = [
    {"endpoint": "collector:4317"},
    {"endpoint": "grpc://collector:4317"},
    {"endpoint": "http://collector:4317", "protocol": "grpc"},
]


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_work_is_refused_when_asked_for_by_name_and_else_left_out(fault: dict[str, str]) -> None:
    with pytest.raises(TracingRefused):
        open_spans(TracingSettings(**fault, required=True))
    assert open_spans(TracingSettings(**fault, required=False)) is None


def test_without_the_extra_the_daemon_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "kheish.telemetry.otlp", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    settings = TracingSettings(endpoint="http://collector:4318/v1/traces", required=True)

    with pytest.raises(TracingRefused, match=r"pip install 'kheish\[otel\]'"):
        open_spans(settings)
    assert open_spans(TracingSettings(endpoint=settings.endpoint, required=False)) is None


async def test_without_configuration_there_is_no_tracer(tmp_path: Path) -> None:
    async with traced(tmp_path, {}) as house:
        text = (await house.client.get("/metrics", headers={"accept": OPENMETRICS})).text
        assert house.daemon.journaling.tracer is None
    assert "kheish_spans_exported" not in Scraped(text).types
