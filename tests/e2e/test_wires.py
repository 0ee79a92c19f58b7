"""A route to each kind of server completes a run with two parallel tool calls, streamed or as plain JSON."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.e2e.daemon_process import Daemon
from tests.fakes.model_server import Answer, Call, ModelServer, Raw, Refusal, Request, Response, Stream

pytestmark = pytest.mark.e2e

DaemonFactory = Callable[..., Daemon]
Served = Callable[..., tuple[Daemon, ModelServer]]

WIRES = {
    "chat": 'driver = "openai_compatible"\ndefault_model = "m"\nbase_url = "{url}/v1"',
    "responses": 'driver = "openai"\ndefault_model = "gpt-5.4"\nbase_url = "{url}"\napi_key = "sk-test-key"',
    "gemini": 'driver = "google"\ndefault_model = "gemini-3-flash"\nbase_url = "{url}"\napi_key = "sk-test-key"',
    "messages": 'driver = "anthropic"\ndefault_model = "claude-x"\nbase_url = "{url}/"\napi_key = "sk-test-key"',
}


@pytest.mark.parametrize("as_json", [False, True], ids=["streamed", "json"])
@pytest.mark.parametrize("wire", WIRES)
def test_each_wire_completes_a_run_with_two_parallel_calls(daemon_for: DaemonFactory, wire: str, as_json: bool) -> None:
    def respond(request: Request) -> Response:
        calls = [Call(name="read_file", arguments={"path": name}, id=f"toolu_{name[0]}") for name in ("a.txt", "b.txt")]
        done = Answer(text="read: " + ", ".join(sorted(request.tool_results.values())))
        return Stream(answer=done if request.tool_results else Answer(text="Reading.", calls=calls), as_json=as_json)

    with ModelServer(respond) as server:
        daemon = daemon_for("[routes.main]\n" + WIRES[wire].format(url=server.url))
        for name in ("a", "b"):
            (daemon.workspace / f"{name}.txt").write_text(f"content of {name}")
        view = daemon.wait(daemon.submit(daemon.session()))

    assert view["status"] == "completed", view
    assert view["outputs"][-1]["content"].count("content of") == 2
    assert [request.wire for request in server.requests] == [wire, wire]
    assert len(server.requests[1].tool_results) == 2
    assert view["usage"]["input_tokens"] == 20
    assert "sk-test-key" not in daemon.log()


def test_an_overloaded_provider_is_asked_again_after_the_time_it_names(served: Served) -> None:
    def respond(request: Request) -> Response:
        if request.number == 0:
            return Refusal(status=529, headers={"Retry-After": "1"}, body={"error": {"message": "secret words"}})
        return Answer(text="at last")

    daemon, server = served(respond)
    run_id = daemon.submit(daemon.session())
    view = daemon.wait(run_id)

    assert view["outputs"][-1]["content"] == "at last"
    assert len(server.requests) == 2
    assert view["finished_at_ms"] - view["started_at_ms"] >= 1000


def test_two_failures_fail_the_run_with_the_status_and_without_upstream_words(served: Served) -> None:
    daemon, server = served(
        Refusal(status=529, headers={"Retry-After": "0"}, body={"error": {"message": "secret words"}})
    )
    view = daemon.wait(daemon.submit(daemon.session()))

    assert view["status"] == "failed"
    assert "529" in view["error"]
    assert "secret words" not in view["error"] + daemon.log()
    assert len(server.requests) == 2


def test_a_stream_that_is_cut_short_is_no_answer(served: Served) -> None:
    answer = Answer(text="the whole of it")
    daemon, server = served(lambda request: Stream(answer=answer, cut_after=2) if request.number == 0 else answer)
    view = daemon.wait(daemon.submit(daemon.session()))

    assert [output["content"] for output in view["outputs"]] == ["the whole of it"]
    assert len(server.requests) == 2


def test_a_character_split_over_two_chunks_stays_whole(served: Served) -> None:
    text = '{"choices":[{"index":0,"delta":{"content":"grüße"},"finish_reason":"stop"}]}'
    whole = f"data: {text}\n\ndata: [DONE]\n\n".encode()
    middle = whole.index("ü".encode()) + 1
    daemon, _ = served(Raw(chunks=[whole[:middle], whole[middle:]]))
    view = daemon.wait(daemon.submit(daemon.session()))

    assert view["outputs"][-1]["content"] == "grüße"


def test_reasoning_with_a_forced_tool_fails_without_any_request(daemon_for: DaemonFactory) -> None:
    with ModelServer(Answer(text="never")) as server:
        daemon = daemon_for("[routes.main]\n" + WIRES["messages"].format(url=server.url))
        generation = {"reasoning": {"budget_tokens": 2048}, "tool_choice": {"type": "required"}}
        view = daemon.wait(daemon.submit(daemon.session(), generation=generation))

    assert view["status"] == "failed"
    assert server.requests == []


def test_run_override_beats_session_policy_beats_default(daemon_for: DaemonFactory) -> None:
    names = ("A", "B", "C")
    servers = {name: ModelServer(Answer(text=f"from {name}")) for name in names}
    for server in servers.values():
        server.__enter__()
    try:
        chat = WIRES["chat"]
        routes = 'default_route = "A"\n' + "\n".join(
            f"[routes.{name}]\n{chat.format(url=server.url)}" for name, server in servers.items()
        )
        daemon = daemon_for(routes)
        session = daemon.session()

        def answer(**fields: object) -> tuple[str, str]:
            view = daemon.wait(daemon.submit(session, **fields))
            return view["outputs"][-1]["content"], view["request"]["provider"]

        daemon.call("POST", f"/v1/sessions/{session}/route-policy", {"route_policy": {"provider": "B"}})
        assert answer(provider="C") == ("from C", "C")
        assert answer() == ("from B", "B")
        daemon.call("DELETE", f"/v1/sessions/{session}/route-policy")
        assert answer() == ("from A", "A")
    finally:
        for server in servers.values():
            server.__exit__(None, None, None)
