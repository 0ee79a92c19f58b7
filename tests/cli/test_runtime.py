"""What the commands of the runtime settings and `serve` pass on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kheish.daemon import serve as serving
from tests.cli.conftest import CommandLine
from tests.cli.recording_daemon import RecordingDaemon


@pytest.mark.parametrize(
    ("words", "path", "body"),
    [
        ("set-permission-mode accept-edits", "permission-mode", {"mode": "acceptEdits"}),
        (
            "set-permission-mode dont-ask --expected-revision 3",
            "permission-mode",
            {"mode": "dontAsk", "expected_revision": 3},
        ),
        ("set-model m", "model", {"model": "m"}),
        ("set-model fast/m", "model", {"model": "m", "provider": "fast"}),
        ("set-model openai/m", "model", {"model": "openai/m"}),
        ("permissions check bash", "permissions/check", {"tool_name": "bash", "input": {}}),
        (
            'permissions check bash --input-json {"a":1} --session-id s --tool-call-id c --mode bypass-permissions',
            "permissions/check",
            {
                "tool_name": "bash",
                "input": {"a": 1},
                "session_id": "s",
                "tool_call_id": "c",
                "mode_override": "bypassPermissions",
            },
        ),
        ("permissions matrix", "permissions/matrix", {}),
        ("permissions matrix --session-id s", "permissions/matrix", {"session_id": "s"}),
    ],
)
def test_changes_send_the_words_of_the_wire(
    daemon: RecordingDaemon, kheish: CommandLine, words: str, path: str, body: object
) -> None:
    daemon.answers["GET /v1/runtime"] = (200, {"routes": [{"route_id": "fast"}]})
    daemon.answers[f"POST /v1/runtime/{path}"] = (200, {"ok": True})
    assert kheish("runtime", *words.split()).exit_code == 0
    assert daemon.asked[-1].body == body


def test_tool_limits_take_what_get_prints(daemon: RecordingDaemon, kheish: CommandLine, tmp_path: Path) -> None:
    limits = {"max_parallel_tools": 4}
    daemon.answers["GET /v1/runtime/tool-limits"] = (200, limits)
    daemon.answers["POST /v1/runtime/tool-limits"] = (200, {})
    file = tmp_path / "limits.json"
    file.write_text(kheish("runtime", "tool-limits", "get").stdout)
    assert kheish("runtime", "tool-limits", "set", "--file", str(file)).exit_code == 0
    wrapped = json.dumps({"limits": limits})
    assert kheish("runtime", "tool-limits", "set", "--stdin", "--expected-revision", "1", stdin=wrapped).exit_code == 0
    assert [asked.body for asked in daemon.asked[1:]] == [
        {"limits": limits},
        {"limits": limits, "expected_revision": 1},
    ]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("set-permission-mode", "acceptEdits"), 2),
        (("permissions", "check", "bash", "--input-json", "[]"), 1),
        (("permissions", "check", "bash", "--input-json", "{"), 1),
        (("tool-limits", "set"), 2),
        (("tool-limits", "set", "--stdin", "--file", "x"), 2),
        (("tool-limits", "set", "--stdin"), 1),
    ],
)
def test_wrong_settings_are_not_sent(
    daemon: RecordingDaemon, kheish: CommandLine, words: tuple[str, ...], code: int
) -> None:
    assert (kheish("runtime", *words, stdin="3").exit_code, daemon.asked) == (code, [])


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """The options each `serve` would have started with."""
    found: list[dict[str, object]] = []

    def main(options: dict[str, object]) -> int:
        found.append({name: value for name, value in options.items() if value not in (None, False, ())})
        return 3

    monkeypatch.setattr(serving, "main", main)
    return found


def test_serve_passes_flags_then_environment_and_ends_with_the_status_of_the_daemon(
    kheish: CommandLine, served: list[dict[str, object]]
) -> None:
    words = """--bind 127.0.0.1:4010 --http-max-body-bytes 9 --permission-mode accept-edits --drain-timeout-ms 5
        --provider openai_compatible --api-key k --openai-compatible-base-url http://h --anthropic-beta-header a,b
        --anthropic-beta-header c"""
    env = {
        "KHEISH_BIND": "127.0.0.1:1",
        "KHEISH_STATE_ROOT": "from-env",
        "KHEISH_ALLOW_EMPTY_ROUTES": "1",
        "KHEISH_EVENT_HISTORY_CAPACITY": "999999",
        "KHEISH_LOG_LEVEL": "debug",
        "KHEISH_RESTART_POLICY": "interrupt",
    }
    assert kheish(*words.split(), **env).exit_code == 3
    assert served == [
        {
            "bind": "127.0.0.1:4010",
            "state_root": "from-env",
            "allow_empty_routes": True,
            "http_max_body_bytes": 9,
            "event_history_capacity": 262_144,
            "log_level": "debug",
            "permission_mode": "acceptEdits",
            "drain_timeout_ms": 5,
            "restart_policy": "interrupt",
            "provider": "openai_compatible",
            "api_key": "k",
            "openai_compatible_base_url": "http://h",
            "anthropic_beta_header": ("a,b", "c"),
        }
    ]


def test_a_client_token_in_the_environment_does_not_stop_serve(
    kheish: CommandLine, served: list[dict[str, object]]
) -> None:
    env = {"KHEISH_DAEMON_TOKEN": "a", "KHEISH_DAEMON_TOKEN_FILE": "/no/such/file"}
    for words in ((), ("start",), ("--output", "json")):
        assert kheish(*words, **env).exit_code == 3
    assert served == [{}, {}, {}]


@pytest.mark.parametrize("words", [("--log-level", "loud"), ("--http-max-body-bytes", "0"), ("--what",), ("extra",)])
def test_serve_refuses_what_it_does_not_know(
    kheish: CommandLine, served: list[dict[str, object]], words: tuple[str, ...]
) -> None:
    assert (kheish("serve", *words).exit_code, served) == (2, [])
