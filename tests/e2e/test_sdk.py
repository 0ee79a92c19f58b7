"""The Python client against a real daemon."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kheish import (
    AsyncKheish,
    BadRequest,
    ConflictError,
    ConnectionFailed,
    Kheish,
    KheishError,
    NotFound,
    ReplyTarget,
    RunFailed,
    WaitTimeout,
)
from tests.e2e.daemon_process import Daemon, wait_for
from tests.fakes.model_server import Answer, Call, ModelServer, Refusal, Request, Response, Stream

pytestmark = pytest.mark.e2e

Served = Callable[..., tuple[Daemon, ModelServer]]
SECONDS = 20.0
TOKEN = "tok-5ecret-7f3a"


@pytest.fixture
def connect() -> Iterator[Callable[..., Kheish]]:
    """Make clients that are closed at the end."""
    made: list[Kheish] = []

    def make(daemon: Daemon, token: str | None = None) -> Kheish:
        client = Kheish(daemon.url, token, timeout=SECONDS)
        made.append(client)
        return client

    yield make
    for client in made:
        client.close()


Connect = Callable[..., Kheish]


def held(text: str) -> tuple[Callable[[Request], Response], threading.Event]:
    """A model that stops in the middle of its answer until the event is set."""
    hold = threading.Event()
    return lambda request: Stream(answer=Answer(text=text), hold_after=2, hold=hold), hold


def python(code: str, daemon: Daemon) -> str:
    """Run code in another process that knows the daemon by its environment alone; returns what it printed."""
    env = {**os.environ, "PYTHONPATH": "src", "KHEISH_BASE_URL": daemon.url}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=SECONDS, check=True
    )
    return done.stdout.strip()


def test_a_created_response_is_waited_for_and_the_cli_shows_the_same_run(daemon: Daemon, connect: Connect) -> None:
    run = connect(daemon).responses.create(session="demo", prompt="hi")
    result = run.wait(timeout=SECONDS, raise_on_failure=True)
    assert (result.status, result.output_text) == ("completed", "echo: hi")
    assert (result.run.request.provider, result.run.request.model) == ("main", "m")
    assert (run.session_id, result.run.extra, result.run.request.extra) == ("demo", {}, {})

    env = {**os.environ, "PYTHONPATH": "src", "KHEISH_DAEMON_URL": daemon.url}
    command = [sys.executable, "-m", "kheish", "runs", "get", run.run_id]
    shown = subprocess.run(command, env=env, capture_output=True, text=True, timeout=SECONDS, check=True)
    assert json.loads(shown.stdout) == result.run.raw


def test_the_same_idempotency_key_gives_the_same_run(daemon: Daemon, connect: Connect) -> None:
    client = connect(daemon)
    first = client.responses.create(session="demo", prompt="hi", idempotency_key="k1")
    again = client.responses.create(session="demo", prompt="hi", idempotency_key="k1")
    assert first.run_id == again.run_id
    assert client.responses.create(session="demo", prompt="hi").run_id != first.run_id
    with pytest.raises(ConflictError) as caught:
        client.responses.create(session="demo", prompt="other", idempotency_key="k1")
    assert (caught.value.domain, caught.value.code) == ("idempotency", "idempotency_conflict")


def test_a_failing_run_raises_or_returns_its_error_as_asked(served: Served, connect: Connect) -> None:
    daemon, _ = served(Refusal(status=401, body={"error": {"message": "no", "type": "x", "code": "invalid_api_key"}}))
    run = connect(daemon).responses.create(session="demo", prompt="hi")
    result = run.wait(timeout=SECONDS)
    assert result.status == "failed"
    assert result.error
    with pytest.raises(RunFailed) as caught:
        run.wait(timeout=SECONDS, raise_on_failure=True)
    assert (caught.value.status, caught.value.error, caught.value.run.run_id) == ("failed", result.error, run.run_id)


def test_a_wait_that_is_too_short_leaves_the_run_alone(served: Served, connect: Connect) -> None:
    respond, hold = held("late")
    daemon, server = served(respond)
    run = connect(daemon).responses.create(session="demo", prompt="hi")
    server.wait_for_requests(1)
    with pytest.raises(WaitTimeout):
        run.wait(timeout=1)
    assert run.get().status == "running"
    hold.set()
    assert run.wait(timeout=SECONDS).output_text == "late"


def test_every_wave_of_approvals_is_a_loop_of_its_own(served: Served, connect: Connect) -> None:
    def respond(request: Request) -> Response:
        done = len(request.tool_results)
        calls = [Call(name="bash", arguments={"command": f"echo {done} >> waves"}, id=f"call_{done}")]
        return Answer(calls=calls) if done < 2 else Answer(text="done")

    daemon, _ = served(respond)
    client = connect(daemon)
    run = client.responses.create(session="demo", prompt="hi")
    seen = []
    blocked = run.wait_until_blocked(timeout=SECONDS)
    while blocked.requires_approval:
        (request,) = blocked.get().pending_approvals
        (listed,) = client.approvals.list(session_id="demo")
        assert listed.request.id == request.id
        seen.append((request.id, request.tool_name, request.input))
        assert blocked.approve_all("ok").run_id == run.run_id
        blocked = run.wait_until_blocked(timeout=SECONDS)
    assert [name for _, name, _ in seen] == ["bash", "bash"]
    assert [wanted for _, _, wanted in seen] == [{"command": f"echo {n} >> waves"} for n in (0, 1)]
    assert seen[0][0] != seen[1][0]
    assert run.wait(timeout=SECONDS).output_text == "done"
    assert (daemon.workspace / "waves").read_text() == "0\n1\n"
    assert list(client.approvals.list()) == []


def test_a_denied_wave_tells_the_model_why(served: Served, connect: Connect) -> None:
    call = Call(name="bash", arguments={"command": "touch made"})
    daemon, server = served(lambda request: Answer(text="ok") if request.tool_results else Answer(calls=[call]))
    run = connect(daemon).responses.create(session="demo", prompt="hi")
    run.wait_until_blocked(timeout=SECONDS).deny_all("not on a Friday")
    assert run.wait(timeout=SECONDS).status == "completed"
    assert "not on a Friday" in "".join(server.requests[-1].tool_results.values())
    assert not (daemon.workspace / "made").exists()


QUESTIONS = {
    "questions": [
        {
            "id": "db",
            "header": "Database",
            "question": "Which one?",
            "options": [{"id": "pg", "label": "PostgreSQL"}, {"id": "lite", "label": "SQLite"}],
        },
        {"id": "why", "header": "Why", "question": "Why that one?"},
    ]
}


def test_questions_are_answered_by_option_id_and_by_text(served: Served, connect: Connect) -> None:
    call = Call(name="ask_user_question", arguments=QUESTIONS)
    daemon, server = served(lambda request: Answer(text="ok") if request.tool_results else Answer(calls=[call]))
    client = connect(daemon)
    run = client.responses.create(session="demo", prompt="hi")
    blocked = run.wait_until_blocked(timeout=SECONDS)
    assert blocked.requires_question
    (request,) = blocked.get().pending_questions
    options = {question.id: [option.id for option in question.options] for question in request.questions}
    assert options == {"db": ["pg", "lite"], "why": []}
    (listed,) = client.questions.list()
    assert (listed.run_id, listed.request.id) == (run.run_id, request.id)
    with pytest.raises(BadRequest) as caught:
        blocked.answer({"db": ["mysql"], "why": "x"})
    assert caught.value.domain == "questions"
    assert caught.value.code == "question_option_not_found"
    blocked.answer({"db": ["pg"], "why": "because it is dull"})
    assert run.wait(timeout=SECONDS).status == "completed"
    told = "".join(server.requests[-1].tool_results.values())
    assert "pg" in told
    assert "because it is dull" in told


def test_another_process_waits_for_a_run_whose_creator_was_killed(served: Served) -> None:
    respond, hold = held("still here")
    daemon, server = served(respond)
    code = (
        "import os, signal; from kheish import Kheish\n"
        "run = Kheish.from_env().responses.create(session='demo', prompt='hi')\n"
        "print(run.run_id, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    env = {**os.environ, "PYTHONPATH": "src", "KHEISH_BASE_URL": daemon.url}
    killed = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=SECONDS)
    assert killed.returncode == -9
    server.wait_for_requests(1)
    hold.set()
    run_id = killed.stdout.strip()
    waiting = f"from kheish import Kheish; print(Kheish.from_env().runs.handle({run_id!r}).wait(20).output_text)"
    assert python(waiting, daemon) == "still here"


def test_a_stream_outlives_a_restart_of_the_daemon(served: Served) -> None:
    hold = threading.Event()

    def respond(request: Request) -> Response:
        answer = Answer(text="the whole answer")
        return Stream(answer=answer, hold_after=2, hold=hold) if request.number == 0 else answer

    daemon, server = served(respond, arguments=("--bind", "127.0.0.1:0"))
    with Kheish(daemon.url, timeout=SECONDS) as client:
        run = client.responses.create(session="demo", prompt="hi")
        server.wait_for_requests(1)
        events = run.stream()
        assert next(events).type == "run_updated"
        daemon.kill()
        hold.set()
        restart_on_the_same_port(daemon)
        rest = list(events)
    ids = [event.id for event in rest if event.id is not None]
    assert ids == sorted(set(ids))
    assert rest[-1].run is not None
    assert rest[-1].run.status == "completed"
    assert [event.text for event in rest if event.type == "output"] == ["the whole answer"]
    assert not [event for event in rest if event.type == "stream_gap"]


def restart_on_the_same_port(daemon: Daemon) -> None:
    daemon.arguments = (*daemon.arguments, "--bind", daemon.url.removeprefix("http://"))
    daemon.start()


def test_a_list_and_a_stream_whose_daemon_is_gone_end_in_a_typed_error(daemon: Daemon) -> None:
    with Kheish(daemon.url, timeout=SECONDS, grace=0.5) as client:
        client.sessions.create("demo")
        runs = [client.responses.create(session="demo", prompt=str(n)) for n in range(3)]
        runs[-1].wait(timeout=SECONDS)
        assert [run.run_id for run in client.runs.list(session_id="demo")] == [run.run_id for run in runs]
        events = client.sessions.stream("demo", cursor=0)
        next(events)
        daemon.kill()
        with pytest.raises(ConnectionFailed):
            list(events)
        with pytest.raises(ConnectionFailed):
            list(client.runs.list())


def test_a_busy_session_refuses_inline_input_with_its_code(served: Served, connect: Connect) -> None:
    respond, hold = held("late")
    daemon, server = served(respond)
    client = connect(daemon)
    client.responses.create(session="demo", prompt="hi")
    server.wait_for_requests(1)
    with pytest.raises(ConflictError) as caught:
        client.sessions.input("demo", "me too")
    assert (caught.value.domain, caught.value.code) == ("sessions", "session_busy")
    hold.set()


def test_inline_input_returns_the_session_when_the_run_is_done(daemon: Daemon, connect: Connect) -> None:
    client = connect(daemon)
    client.sessions.create("demo")
    view = client.sessions.input("demo", "hi")
    assert [output.content for output in view.outputs] == ["echo: hi"]
    assert view.snapshot.last_assistant_message == "echo: hi"


def test_a_client_with_a_token_shows_it_nowhere(daemon: Daemon, connect: Connect) -> None:
    client = connect(daemon, TOKEN)
    with pytest.raises(NotFound) as caught:
        client.runs.get("run-99")
    assert (caught.value.domain, caught.value.code) == ("runs", "run_not_found")
    assert TOKEN not in repr(client) + repr(caught.value) + str(caught.value)


def test_the_text_of_a_run_is_streamed_in_pieces(served: Served, connect: Connect) -> None:
    watched, heard = threading.Event(), threading.Event()

    async def respond(request: Request) -> Response:
        await asyncio.to_thread(watched.wait, SECONDS)
        return Stream(answer=Answer(text="abcdef", pieces=2), hold_after=2, hold=heard)

    daemon, server = served(respond)
    run = connect(daemon).responses.create(session="demo", prompt="hi")
    server.wait_for_requests(1)
    pieces: list[str] = []

    def read() -> None:
        for piece in run.stream_text():
            pieces.append(piece)
            heard.set()

    reader = threading.Thread(target=read)
    reader.start()
    wait_for(lambda: daemon.call("GET", "/v1/status")["events"]["subscriber_count"], "nobody subscribed")
    watched.set()
    reader.join(SECONDS)
    assert pieces == ["abc", "def"]


def test_the_whole_surface_speaks_the_daemons_wire(daemon: Daemon, connect: Connect) -> None:
    client = connect(daemon)
    session = client.sessions.create("a/b", route="main", reply_targets=[ReplyTarget.raw("cli", "here")])
    run = session.responses.create(prompt="hi")
    run.wait(timeout=SECONDS, raise_on_failure=True)
    assert [summary.session_id for summary in client.sessions.list()] == ["a/b"]
    view = client.sessions.get("a/b")
    assert view.extra == {}
    assert view.route_policy is not None
    assert view.route_policy.provider == "main"
    assert [(target.plugin, target.address) for target in client.sessions.reply_targets("a/b")] == [("cli", "here")]
    assert client.sessions.clear_reply_targets("a/b").reply_targets == ()
    assert client.sessions.set_route_policy("a/b", generation={"temperature": 0.5}).route_policy is not None
    assert client.sessions.clear_route_policy("a/b").route_policy is None
    assert client.sessions.events("a/b").session["session_id"] == "a/b"
    assert [entry.event["type"] for entry in client.runs.events(run.run_id)][-2:] == ["output", "completed"]
    actions = client.runs.external_actions(run.run_id)
    assert [(action.phase, action.extra) for action in actions] == [("request", {}), ("response", {})]
    assert [found.run_id for found in client.runs.newest(5, priority_active=True)] == [run.run_id]
    assert run.cancel().status == "completed"
    assert client.sessions.interrupt("a/b").interrupted is False
    assert client.sessions.end("a/b", "done").session_id == "a/b"
    assert client.runtime.capabilities()["session_run_idempotency"] is True
    assert client.runtime.status()["ready"] is True
    assert client.runtime.view().permission_mode == "default"
    assert client.runtime.check_permission("bash", {"command": "ls"}).decision
    assert client.runtime.set_permission_mode("plan").permission_mode == "plan"
    limits = client.runtime.tool_limits()
    changed = {**limits.raw, "max_parallel_tools": 2}
    assert client.runtime.set_tool_limits(changed).tool_limits["max_parallel_tools"] == 2
    assert client.raw.request("GET", "/v1/runs", params={"limit": 1}) is not None


def the_documents_model(request: Request) -> Response:
    """Plays the part of the model in every example of docs/sdk.md."""
    if "Run the tests" not in request.user_text:
        return Answer(text=f"echo: {request.user_text}")
    options = [{"id": "postgres", "label": "PostgreSQL"}, {"id": "sqlite", "label": "SQLite"}]
    database = {"id": "database", "question": "Which?", "options": options}
    asked = {"questions": [database, {"id": "reason", "question": "Why?"}]}
    steps = [
        Answer(calls=[Call(name="bash", arguments={"command": "true"}, id="c0")]),
        Answer(calls=[Call(name="ask_user_question", arguments=asked, id="c1")]),
        Answer(text="fixed"),
    ]
    return steps[len(request.tool_results)]


def test_every_example_of_the_documentation_runs(served: Served) -> None:
    daemon, _ = served(the_documents_model)
    page = (Path(__file__).parents[2] / "docs" / "sdk.md").read_text()
    examples = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    printed = [python(example, daemon) for example in examples]
    assert printed[0] == "echo: What is in this folder?"
    assert printed[1].splitlines() == ["completed echo: Summarise a.txt", "completed echo: Summarise b.txt"]
    assert printed[2].splitlines() == ["bash {'command': 'true'}", "fixed"]
    assert "echo: Tell me a story." in printed[3]
    assert printed[3].splitlines()[-1].endswith(" run_updated")
    assert len(printed) == 4


def test_the_asynchronous_client_runs_many_at_once(daemon: Daemon) -> None:
    async def work() -> list[str]:
        async with AsyncKheish(daemon.url, timeout=SECONDS) as client:
            runs = await asyncio.gather(*(client.responses.create(session=f"s{n}", prompt=str(n)) for n in range(8)))
            results = await asyncio.gather(*(run.wait(timeout=SECONDS) for run in runs))
            types = [event.type async for event in runs[0].stream()]
            assert types[-1] == "run_updated"
            assert "".join([piece async for piece in runs[0].stream_text()]) == "echo: 0"
            assert len([session async for session in client.sessions.list()]) == 8
            with pytest.raises(KheishError):
                await client.runs.get("run-99")
            return [result.output_text for result in results]

    assert asyncio.run(work()) == [f"echo: {n}" for n in range(8)]
