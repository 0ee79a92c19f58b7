"""The command line as a process, against a daemon as a process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.pseudo_terminal import OnTerminal
from tests.e2e.daemon_process import DEADLINE_S, Daemon, wait_for
from tests.fakes.model_server import Answer, Call, ModelServer, Request, Response, Stream

pytestmark = pytest.mark.e2e

Served = Callable[..., tuple[Daemon, ModelServer]]
GRACE = "KHEISH_DAEMON_WAIT_TRANSIENT_ERROR_GRACE_MS"
QUESTION = {
    "id": "db",
    "header": "DB",
    "question": "Which database?",
    "options": [{"id": "pg", "label": "Postgres"}, {"id": "lite", "label": "SQLite"}],
}


def _popen(daemon: Daemon | None, *words: str, **env: str) -> subprocess.Popen[str]:
    url = {} if daemon is None else {"KHEISH_DAEMON_URL": daemon.url}
    return subprocess.Popen(
        [sys.executable, "-m", "kheish", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": "src", **url, **env},
    )


class Done:
    """A command that ended."""

    def __init__(self, process: subprocess.Popen[str], stdin: str | None = None) -> None:
        self.out, self.err = process.communicate(stdin, DEADLINE_S)
        self.code = process.returncode

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def kheish(daemon: Daemon | None, *words: str, stdin: str | None = None, **env: str) -> Done:
    return Done(_popen(daemon, *words, **env), stdin)


def respond(request: Request) -> Response:
    """`run` asks for a command, `ask` for an answer of a human; anything else is echoed."""
    if request.body["messages"][-1]["role"] == "tool":
        return Answer(text="after the tool")
    if "run" in request.user_text:
        return Answer(text="I need a command.", calls=[Call(name="bash", arguments={"command": "echo from-bash"})])
    if "ask" in request.user_text:
        return Answer(calls=[Call(name="ask_user_question", arguments={"questions": [QUESTION]})])
    return Answer(text=f"echo: {request.user_text}")


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


# The process


@pytest.mark.parametrize("word", [(), ("serve",), ("start",)])
def test_without_a_command_the_daemon_serves_and_a_flag_beats_the_environment(
    tmp_path: Path, word: tuple[str, ...]
) -> None:
    port = _free_port()
    words = (
        *word,
        "--bind",
        f"127.0.0.1:{port}",
        "--state-root",
        str(tmp_path / "s"),
        "--workspace-root",
        str(tmp_path),
    )
    process = _popen(None, *words, "--allow-empty-routes", "--log-format", "json", KHEISH_BIND="127.0.0.1:1")
    try:
        assert process.stderr is not None
        ready = next(line for line in process.stderr if "daemon.ready" in line)
        assert json.loads(ready)["url"] == f"http://127.0.0.1:{port}"
        found = kheish(None, "--output", "json", "status", KHEISH_DAEMON_URL=f"http://127.0.0.1:{port}")
        assert (found.code, found.json["process_id"]) == (0, process.pid)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0
    finally:
        process.kill()


def test_a_serve_that_cannot_start_ends_with_1_and_says_why(tmp_path: Path) -> None:
    clean = dict.fromkeys(("KHEISH_API_KEY", "ANTHROPIC_API_KEY"), "")
    result = kheish(None, "serve", "--bind", "127.0.0.1:0", "--state-root", str(tmp_path / "s"), **clean)
    assert result.code == 1
    assert "ANTHROPIC_API_KEY" in result.err
    assert kheish(None, "serve", "--bind", "10.1.2.3:80", "--state-root", str(tmp_path / "s")).code == 1


# Answers and exit codes


def test_exit_codes_tell_what_went_wrong(daemon: Daemon) -> None:
    for words, code in [
        (("status",), 0),
        (("runs", "get", "nope"), 5),
        (("sessions", "get", "nope"), 5),
        (("runs", "watch", "nope"), 5),
        (("sessions", "stream", "nope"), 5),
        (("runs", "list", "--limit", "0"), 2),
        (("sessions", "create", ".."), 2),
        (("sessions", "input", "nope", "hi"), 5),
        (("runs", "get"), 2),
        (("runtime", "set-permission-mode", "plan", "--expected-revision", "99"), 6),
        (("--base-url", f"http://127.0.0.1:{_free_port()}", "status"), 3),
        (("--token", "a", "--token-file", "f", "status"), 2),
    ]:
        result = kheish(daemon, *words)
        assert result.code == code, (words, result.err)
        assert (result.out == "") == (code != 0), words


def test_a_refusal_shows_status_code_and_detail(daemon: Daemon) -> None:
    assert kheish(daemon, "runs", "get", "nope").err == "error: HTTP 404 (run_not_found): No run has the id 'nope'.\n"


def test_pretty_and_json_output_are_the_same_value(daemon: Daemon) -> None:
    pretty, line = kheish(daemon, "runtime", "get"), kheish(daemon, "--output", "json", "runtime", "get")
    assert pretty.json == line.json
    assert (line.out.count("\n"), pretty.out.startswith("{\n  ")) == (1, True)


def test_lists_are_arrays_and_pages_are_envelopes(daemon: Daemon) -> None:
    for name in ("a", "b/c", "d"):
        assert kheish(daemon, "sessions", "create", name).code == 0
    assert [row["session_id"] for row in kheish(daemon, "sessions", "list", "--limit", "2").json] == ["a", "b/c"]
    page = kheish(daemon, "sessions", "list", "--page", "--limit", "2").json
    assert (page["pagination"]["total_count"], page["pagination"]["has_more"]) == (3, True)
    rest = kheish(daemon, "sessions", "list", "--cursor", page["pagination"]["next_cursor"]).json
    assert [row["session_id"] for row in rest["items"]] == ["d"]
    assert kheish(daemon, "sessions", "get", "b/c").json["session_id"] == "b/c"


def test_everything_the_runtime_group_reads_answers(daemon: Daemon) -> None:
    for words in (
        "runtime get",
        "runtime revisions",
        "runtime permissions matrix",
        "runtime tool-limits get",
        "capabilities",
    ):
        assert kheish(daemon, *words.split()).code == 0, words
    checked = kheish(daemon, "runtime", "permissions", "check", "bash", "--mode", "plan").json
    assert (checked["effective_mode"], checked["decision"]) == ("plan", "deny")
    assert kheish(daemon, "runtime", "set-permission-mode", "accept-edits").json["permission_mode"] == "acceptEdits"
    limits = json.dumps({**kheish(daemon, "runtime", "tool-limits", "get").json, "max_parallel_tools": 3})
    assert kheish(daemon, "runtime", "tool-limits", "set", "--stdin", stdin=limits).code == 0
    assert kheish(daemon, "runtime", "tool-limits", "get").json["max_parallel_tools"] == 3


# Runs


def test_input_with_wait_returns_the_run_when_it_is_over(daemon: Daemon) -> None:
    daemon.session()
    result = kheish(daemon, "sessions", "input", "demo", "--wait", "hi")
    assert (result.code, result.json["status"]) == (0, "completed")
    assert result.json["outputs"][0]["content"] == "echo: hi"


def test_the_same_idempotency_key_is_the_same_run(daemon: Daemon) -> None:
    daemon.session()
    words = ("sessions", "input", "demo", "hi", "--idempotency-key", "k", "--wait")
    assert kheish(daemon, *words).json["run_id"] == kheish(daemon, *words).json["run_id"]
    assert kheish(daemon, "sessions", "input", "demo", "other", "--idempotency-key", "k").code == 6


def test_a_failed_run_ends_a_wait_with_9(daemon: Daemon) -> None:
    daemon.session()
    words = ("sessions", "input", "demo", "hi", "--wait", "--require-workspace-file-path", "never.md")
    result = kheish(daemon, *words)
    assert (result.code, result.json["status"]) == (9, "failed")


def _waiting_for_the_model(served: Served) -> tuple[Daemon, threading.Event, str]:
    """A run in the middle of its answer, which comes when the event is set."""
    hold = threading.Event()

    def slow(request: Request) -> Response:
        return (
            Stream(answer=Answer(text="late"), hold_after=1, hold=hold) if request.number == 0 else Answer(text="late")
        )

    daemon, server = served(slow)
    run_id = daemon.submit(daemon.session())
    server.wait_for_requests(1)
    return daemon, hold, run_id


def test_a_wait_survives_a_restart_of_the_daemon(served: Served) -> None:
    port = _free_port()
    daemon, hold, run_id = _waiting_for_the_model(
        lambda model: served(model, arguments=("--bind", f"127.0.0.1:{port}"))  # the later --bind wins
    )
    process = _popen(daemon, "runs", "wait", run_id, "--poll-interval-ms", "50")
    wait_for(lambda: _clients(daemon) > 0, "the wait never looked")
    daemon.kill()
    hold.set()
    daemon.start()
    result = Done(process)
    assert (result.code, result.json["outputs"][0]["content"]) == (0, "late")


def _clients(daemon: Daemon) -> int:
    """Open connections to the daemon: the sign that a command has begun."""
    port = f"{int(daemon.url.rpartition(':')[2]):04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(f":{port}") and row[3] == "01" for row in rows)


def test_a_wait_ends_with_3_when_the_daemon_stays_away_longer_than_the_grace(served: Served) -> None:
    daemon, hold, run_id = _waiting_for_the_model(served)
    process = _popen(daemon, "runs", "wait", run_id, "--poll-interval-ms", "50", **{GRACE: "100"})
    wait_for(lambda: _clients(daemon) > 0, "the wait never looked")
    daemon.kill()
    hold.set()
    assert Done(process).code == 3


def test_a_wait_timeout_ends_with_7_and_the_run_goes_on(served: Served) -> None:
    daemon, hold, run_id = _waiting_for_the_model(served)
    result = kheish(daemon, "runs", "wait", run_id, "--wait-timeout", "0.2")
    assert (result.code, result.json["status"]) == (7, "running")
    hold.set()
    assert daemon.wait(run_id)["status"] == "completed"


# Humans


def test_allow_all_with_wait_resolves_two_sessions_and_sums_up(served: Served) -> None:
    daemon, _ = served(respond)
    for name in ("one", "two"):
        daemon.session(name)
        assert kheish(daemon, "sessions", "input", name, "run", "--wait").code == 10
    assert len(kheish(daemon, "approvals", "list").json) == 2
    result = kheish(daemon, "approvals", "allow-all", "--wait")
    assert (result.code, result.json["resolved_requests"], result.json["affected_sessions"]) == (0, 2, 2)
    assert [run["status"] for run in result.json["runs"]] == ["completed", "completed"]
    assert kheish(daemon, "approvals", "list").json == []


def test_allow_all_with_wait_stops_at_the_next_wave(served: Served) -> None:
    def two_waves(request: Request) -> Response:
        done = len(request.tool_results)
        calls = [Call(name="bash", arguments={"command": f"echo {done} {n}"}) for n in range(2 - done // 2)]
        return Answer(calls=calls) if done < 3 else Answer(text="both waves")

    daemon, _ = served(two_waves)
    for name in ("one", "two"):
        daemon.session(name)
        assert kheish(daemon, "sessions", "input", name, "go", "--wait").code == 10
    first = kheish(daemon, "approvals", "allow-all", "--wait")
    assert (first.code, first.json["resolved_requests"], first.json["affected_sessions"]) == (10, 4, 2)
    assert {run["status"] for run in first.json["runs"]} == {"waiting_for_approval"}
    second = kheish(daemon, "approvals", "allow-all", "--wait")
    assert (second.code, second.json["resolved_requests"]) == (0, 2)
    assert {run["outputs"][0]["content"] for run in second.json["runs"]} == {"both waves"}


def test_allow_repeated_with_its_key_is_the_same_decision_and_without_one_a_conflict(served: Served) -> None:
    daemon, _ = served(respond)
    daemon.session()
    view = kheish(daemon, "sessions", "input", "demo", "run", "--wait").json
    words = ("approvals", "allow", "demo", view["pending_approval_ids"][0], "--wait", "--idempotency-key", "k")
    first, again = kheish(daemon, *words), kheish(daemon, *words)
    assert (first.code, again.code) == (0, 0)
    assert first.json == again.json
    assert kheish(daemon, *words[:4]).code == 6


def test_deny_tells_the_model_the_reason(served: Served) -> None:
    daemon, server = served(respond)
    daemon.session()
    view = kheish(daemon, "sessions", "input", "demo", "run", "--wait").json
    words = ("approvals", "deny", "demo", view["pending_approval_ids"][0], "--reason", "not on a Friday", "--wait")
    assert kheish(daemon, *words).code == 0
    assert "not on a Friday" in json.dumps(server.requests[-1].body)


def test_a_question_is_answered_declined_and_cancelled(served: Served) -> None:
    daemon, server = served(respond)
    daemon.session()

    def ask() -> str:
        view = kheish(daemon, "sessions", "input", "demo", "ask", "--wait")
        assert view.code == 10
        return str(view.json["pending_question_ids"][0])

    answered = kheish(daemon, "questions", "answer", ask(), "--interactive", "--wait", stdin="2\n")
    assert (answered.code, answered.json["status"]) == (0, "completed")
    assert "lite" in json.dumps(server.requests[-1].body)
    assert kheish(daemon, "questions", "answer", ask(), "--answers-json", '{"db": ["pg"]}', "--wait").code == 0
    assert kheish(daemon, "questions", "answer", ask(), "--declined", "--wait").code == 0
    assert kheish(daemon, "questions", "cancel", ask()).json["status"] == "cancelled"
    assert kheish(daemon, "questions", "list").json == []


# Streams


def test_streams_print_one_json_event_per_line_and_a_run_stream_ends_with_its_run(daemon: Daemon) -> None:
    daemon.session()
    run_id = daemon.submit("demo", "hi")
    daemon.wait(run_id)
    result = kheish(daemon, "runs", "stream", run_id)
    lines = [json.loads(line) for line in result.out.splitlines()]
    assert result.code == 0
    assert {line["event"] for line in lines} >= {"run_updated", "output"}
    assert lines[-1]["data"]["run"]["status"] == "completed"
    ids = [line["id"] for line in lines if line["id"] is not None]
    assert ids == sorted(ids)
    later = kheish(daemon, "runs", "follow", run_id, "--cursor", str(ids[1]))
    assert [json.loads(line)["id"] for line in later.out.splitlines()] == ids[2:]


@pytest.mark.parametrize(
    "words", [("events", "stream"), ("sessions", "watch", "demo"), ("events", "follow", "--session-id", "demo")]
)
def test_an_open_stream_prints_events_as_they_come(daemon: Daemon, words: tuple[str, ...]) -> None:
    daemon.session()
    process = _popen(daemon, *words, "--cursor", "0")
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["data"]["session_id"] == "demo"
        run_id = daemon.submit("demo", "hi")
        found = (json.loads(line) for line in process.stdout)
        over = next(line for line in found if line["data"].get("run", {}).get("status") == "completed")
        assert over["data"]["run"]["run_id"] == run_id
    finally:
        process.kill()
        process.communicate()


# A terminal


def test_watch_on_a_terminal_shows_text_tools_and_approvals(served: Served) -> None:
    daemon, _ = served(respond)
    run_id = daemon.submit(daemon.session(), "run")
    with OnTerminal("runs", "watch", run_id, KHEISH_DAEMON_URL=daemon.url) as terminal:
        terminal.expect("? bash wants to run")
        terminal.expect("command: echo from-bash")
        daemon.allow_all(run_id)
        terminal.expect("▸ bash")
        terminal.expect("✓ bash")
        terminal.expect("after the tool")
        terminal.expect(f"✓ {run_id} completed")
        assert terminal.end() == 0


def test_a_chat_streams_asks_and_leaves_on_ctrl_d(served: Served) -> None:
    daemon, _ = served(respond)
    with OnTerminal("sessions", "chat", "new session", KHEISH_DAEMON_URL=daemon.url) as terminal:
        for prompt, typed, shown in [
            ("you> ", "hello", "echo: hello"),
            ("you> ", "run it", "? bash wants to run"),
            ("why] ", "maybe", "allow? [y/n, or n and "),
            ("why] ", "y", "after the tool"),
            ("you> ", "ask me", "Which database?"),
            ("a number or a text)", "2", "after the tool"),
        ]:
            terminal.expect(prompt)
            terminal.type(typed + "\n")
            terminal.expect(shown)
        terminal.expect("you> ")
        terminal.type("\x04")
        assert terminal.end() == 0
    assert [run["status"] for run in daemon.call("GET", "/v1/runs")] == ["completed"] * 3


def test_ctrl_c_in_a_chat_interrupts_the_run_and_the_chat_goes_on(served: Served) -> None:
    hold = threading.Event()

    def hang(request: Request) -> Response:
        answer = Answer(text="a long answer that never ends")
        return Stream(answer=answer, hold_after=2, hold=hold) if request.number == 0 else Answer(text="still here")

    daemon, _ = served(hang)
    with OnTerminal("sessions", "chat", "demo", KHEISH_DAEMON_URL=daemon.url) as terminal:
        terminal.expect("you> ")
        terminal.type("go\n")
        terminal.expect("a long")
        terminal.type("\x03")
        terminal.expect("run-1 interrupted")
        terminal.expect("you> ")
        terminal.type("half a li")
        terminal.expect("half a li")
        terminal.type("\x03")
        terminal.expect("you> ")
        terminal.type("again\n")
        terminal.expect("still here")
        terminal.expect("you> ")
        terminal.type("\x04")
        assert terminal.end() == 0
    hold.set()


def test_a_chat_takes_its_lines_from_a_pipe(served: Served) -> None:
    daemon, server = served(respond)
    result = kheish(daemon, "sessions", "chat", "demo", stdin="hello\nrun it\nn not today\n\nask\n1\n")
    assert result.code == 0
    assert "echo: hello" in result.out
    assert result.out.count("completed") == 3
    assert "\x1b" not in result.out
    assert any("not today" in json.dumps(request.body) for request in server.requests)


def test_a_chat_left_at_an_approval_takes_it_up_again(served: Served) -> None:
    daemon, _ = served(respond)
    left = kheish(daemon, "sessions", "chat", "demo", stdin="run it\n")
    assert (left.code, "sessions chat demo" in left.out) == (0, True)
    assert daemon.run("run-1")["status"] == "waiting_for_approval"
    taken_up = kheish(daemon, "sessions", "chat", "demo", stdin="y\n")
    assert (taken_up.code, daemon.run("run-1")["status"]) == (0, "completed")
    assert "? bash wants to run" in taken_up.out


def test_what_a_model_writes_cannot_command_the_terminal(served: Served) -> None:
    daemon, _ = served(Answer(text="before\x1b]0;owned\x07after"))
    result = kheish(daemon, "sessions", "chat", "demo", stdin="hello\n")
    assert "before" in result.out
    assert not {"\x1b", "\x07"} & set(result.out)
