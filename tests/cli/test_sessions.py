"""What the commands of sessions send."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import CommandLine
from tests.cli.recording_daemon import RecordingDaemon, run

RUNS = "POST /v1/sessions/demo/runs"
ROUTES = {"routes": [{"route_id": "fast"}, {"route_id": "smart"}]}


@pytest.fixture(autouse=True)
def answers(daemon: RecordingDaemon) -> None:
    daemon.answers.update(
        {RUNS: (202, run()), "GET /v1/runtime": (200, ROUTES), "POST /v1/sessions/demo/route-policy": (200, {})}
    )


def _sent(daemon: RecordingDaemon) -> Any:
    return daemon.asked[-1].body


def test_the_text_comes_from_exactly_one_source(daemon: RecordingDaemon, kheish: CommandLine, tmp_path: Path) -> None:
    file = tmp_path / "task.md"
    file.write_text("from a file\n")
    for words, stdin in [
        (("from words",), None),
        (("--content-file", str(file)), None),
        (("--stdin",), "from stdin ž\n".encode()),
    ]:
        assert kheish("sessions", "input", "demo", *words, stdin=stdin).exit_code == 0
    assert [asked.body["content"] for asked in daemon.asked] == ["from words", "from a file\n", "from stdin ž\n"]
    for words in [(), ("a", "--stdin"), ("a", "--content-file", str(file)), ("--stdin", "--content-file", str(file))]:
        assert kheish("sessions", "input", "demo", *words).exit_code == 2
    assert len(daemon.asked) == 3


@pytest.mark.parametrize(
    "words",
    [
        ("--content-file", "/no/such/file"),
        ("--stdin",),
        ("hi", "--metadata-json", "{"),
        ("hi", "--metadata-file", "/no/such/file"),
        ("hi", "--response-format", "structured-json", "--response-schema-json", "[" * 100_000),
    ],
)
def test_what_cannot_be_read_ends_with_1_and_sends_nothing(
    daemon: RecordingDaemon, kheish: CommandLine, words: tuple[str, ...]
) -> None:
    result = kheish("sessions", "input", "demo", *words, stdin=b"\xff")
    assert (result.exit_code, daemon.asked) == (1, [])
    assert result.stderr.startswith("error: ")


def test_every_flag_of_input_reaches_the_request(daemon: RecordingDaemon, kheish: CommandLine) -> None:
    words = """--source-plugin ci --source-kind job --actor-id bot --metadata-json {"a":[1]} --reply-plugin http
        --reply-address u --provider fast --require-workspace-file-write --require-workspace-file-path a.md
        --require-workspace-file-path b.md --model big --fallback-model small --temperature 0.5
        --max-output-tokens 9 --reasoning-effort high --reasoning-summary concise --reasoning-budget-tokens 7
        --reasoning-interleaved --tool-choice specific --tool-name bash --serial-tools --on-restart interrupt
        --on-in-doubt ask
        --response-format structured-json --response-schema-json {"kind":"any"}"""
    assert kheish("sessions", "send", "demo", "hi", *words.split()).exit_code == 0
    assert _sent(daemon) == {
        "content": "hi",
        "provider": "fast",
        "generation": {
            "model": "big",
            "fallback_model": "small",
            "temperature": 0.5,
            "max_output_tokens": 9,
            "reasoning": {"effort": "high", "summary": "concise", "budget_tokens": 7, "interleaved": True},
            "tool_choice": {"type": "specific", "name": "bash"},
            "allow_parallel_tool_calls": False,
            "response_format": {"type": "structured_json", "schema": {"kind": "any"}},
        },
        "source_plugin": "ci",
        "source_kind": "job",
        "actor_id": "bot",
        "on_restart": "interrupt",
        "on_in_doubt": "ask",
        "metadata": {"a": [1]},
        "reply_targets": [{"plugin": "http", "address": "u"}],
        "completion_requirements": [
            {"type": "workspace_file", "path": "a.md"},
            {"type": "workspace_file", "path": "b.md"},
            {"type": "workspace_file"},
        ],
    }
    assert kheish("sessions", "input", "demo", "hi").exit_code == 0
    assert _sent(daemon) == {"content": "hi"}


@pytest.mark.parametrize(
    "words",
    [
        ("--tool-choice", "specific"),
        ("--tool-name", "bash"),
        ("--response-format", "structured-json"),
        ("--response-schema-json", "{}"),
        ("--reply-plugin", "http"),
        ("--reasoning-effort", "enormous"),
        ("--metadata-json", "1", "--metadata-file", "x"),
    ],
)
def test_flags_that_do_not_fit_together_are_wrong_usage(
    daemon: RecordingDaemon, kheish: CommandLine, words: tuple[str, ...]
) -> None:
    assert (kheish("sessions", "input", "demo", "hi", *words).exit_code, daemon.asked) == (2, [])


@pytest.mark.parametrize(
    ("words", "provider", "generation"),
    [
        (("--model", "fast/m"), "fast", {"model": "m"}),
        (("--model", "fast/vendor/m"), "fast", {"model": "vendor/m"}),
        (("--model", "openai/gpt-x"), None, {"model": "openai/gpt-x"}),
        (("--model", "fast/a", "--fallback-model", "fast/b"), "fast", {"model": "a", "fallback_model": "b"}),
        (("--model", "a", "--fallback-model", "fast/b"), "fast", {"model": "a", "fallback_model": "b"}),
        (("--model", "fast/a", "--provider", "fast"), "fast", {"model": "a"}),
    ],
)
def test_a_selector_names_a_route_only_when_the_daemon_has_it(
    daemon: RecordingDaemon,
    kheish: CommandLine,
    words: tuple[str, ...],
    provider: str | None,
    generation: dict[str, str],
) -> None:
    assert kheish("sessions", "input", "demo", "hi", *words).exit_code == 0
    assert (_sent(daemon).get("provider"), _sent(daemon)["generation"]) == (provider, generation)


@pytest.mark.parametrize(
    "words",
    [
        ("--model", "fast/m", "--provider", "smart"),
        ("--model", "fast/m", "--fallback-model", "smart/m"),
        ("--model", "fast/"),
    ],
)
def test_selectors_that_contradict_end_with_1_and_make_no_run(
    daemon: RecordingDaemon, kheish: CommandLine, words: tuple[str, ...]
) -> None:
    assert kheish("sessions", "input", "demo", "hi", *words).exit_code == 1
    assert daemon.requests() == [("GET", "/v1/runtime")]


def test_a_model_without_a_slash_asks_the_daemon_for_nothing(daemon: RecordingDaemon, kheish: CommandLine) -> None:
    kheish("sessions", "input", "demo", "hi", "--model", "m")
    assert daemon.requests() == [("POST", "/v1/sessions/demo/runs")]


@pytest.mark.parametrize(("known", "code", "requests"), [(True, 0, 2), (False, 1, 1)])
def test_an_idempotency_key_is_sent_only_to_a_daemon_that_knows_them(
    daemon: RecordingDaemon, kheish: CommandLine, known: bool, code: int, requests: int
) -> None:
    daemon.answers["GET /v1/capabilities"] = (200, {"session_run_idempotency": known})
    assert kheish("sessions", "input", "demo", "hi", "--idempotency-key", "k1").exit_code == code
    assert len(daemon.asked) == requests
    if known:
        assert (daemon.asked[-1].headers["idempotency-key"], _sent(daemon)) == ("k1", {"content": "hi"})


def test_lists_pass_their_paging_on(daemon: RecordingDaemon, kheish: CommandLine) -> None:
    daemon.answers.update({"GET /v1/sessions": (200, []), "GET /v1/runs": (200, []), "GET /v1/questions": (200, [])})
    for words in ("sessions list", "runs list --session-id s --limit 2", "questions list --page --cursor C --limit 3"):
        assert kheish(*words.split()).exit_code == 0
    assert [asked.query for asked in daemon.asked] == [
        {},
        {"session_id": "s", "limit": "2"},
        {"page": "true", "cursor": "C", "limit": "3"},
    ]


def test_the_other_commands_of_sessions_make_the_request_they_stand_for(
    daemon: RecordingDaemon, kheish: CommandLine
) -> None:
    sent: list[tuple[str, str, Any]] = []
    for words, answer in [
        ("sessions open", "POST /v1/sessions"),
        ("sessions create demo --thread-id t", "POST /v1/sessions"),
        ("session show demo", "GET /v1/sessions/demo"),
        ("sessions events demo", "GET /v1/sessions/demo/events"),
        ("sessions interrupt demo", "POST /v1/sessions/demo/interrupt"),
        ("sessions end demo", "POST /v1/sessions/demo/end"),
        ("sessions set-route demo --model fast/m --serial-tools", "POST /v1/sessions/demo/route-policy"),
        ("sessions set-route demo --clear", "POST /v1/sessions/demo/route-policy"),
        (
            'sessions set-reply-targets demo --reply-targets-json [{"plugin":"p","address":"a"}]',
            "POST /v1/sessions/demo/reply-targets",
        ),
        ("sessions clear-reply-targets demo", "DELETE /v1/sessions/demo/reply-targets"),
        ("runs show run-1", "GET /v1/runs/run-1"),
        ("runs events run-1", "GET /v1/runs/run-1/events"),
        ("runs cancel run-1", "POST /v1/runs/run-1/cancel"),
        ("capabilities", "GET /v1/capabilities"),
    ]:
        daemon.answers[answer] = (200, {"ok": True})
        result = kheish(*words.split())
        assert (result.exit_code, json.loads(result.stdout)) == (0, {"ok": True}), words
        sent.append((daemon.asked[-1].method, daemon.asked[-1].path, daemon.asked[-1].body))
    assert [body for _, _, body in sent if body] == [
        {"session_id": "demo", "thread_id": "t"},
        {"route_policy": {"provider": "fast", "generation": {"model": "m", "allow_parallel_tool_calls": False}}},
        {"route_policy": None},
        {"reply_targets": [{"plugin": "p", "address": "a"}]},
    ]


@pytest.mark.parametrize("words", [(), ("--clear", "--model", "m")])
def test_set_route_needs_either_clear_or_something_to_set(
    daemon: RecordingDaemon, kheish: CommandLine, words: tuple[str, ...]
) -> None:
    assert (kheish("sessions", "set-route", "demo", *words).exit_code, daemon.asked) == (2, [])
