"""How a command line is read: the default command, global options, aliases, what is imported for help."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from kheish.cli.root import CommandGroup, with_default_command
from kheish.daemon.main import build
from tests.cli.conftest import CommandLine
from tests.cli.recording_daemon import RecordingDaemon


@pytest.mark.parametrize(
    ("words", "becomes"),
    [
        ("", "serve"),
        ("--bind 127.0.0.1:0 --state-root X", "serve --bind 127.0.0.1:0 --state-root X"),
        ("--output json", "--output json serve"),
        ("--output json --bind 127.0.0.1:0", "--output json serve --bind 127.0.0.1:0"),
        ("--base-url=http://h --bind b", "--base-url=http://h serve --bind b"),
        ("--output json status", "--output json status"),
        ("--output serve status", "--output serve status"),
        ("runs list", "runs list"),
        ("--help", "--help"),
        ("-h", "-h"),
        ("-V", "-V"),
        ("--output json --version", "--output json --version"),
        ("--token", "--token"),
    ],
)
def test_serve_is_inserted_before_the_first_word_that_is_no_global_option(words: str, becomes: str) -> None:
    assert with_default_command(words.split()) == becomes.split()


@pytest.mark.parametrize(
    "words",
    [
        ("--output", "json", "runtime", "get"),
        ("runtime", "--output", "json", "get"),
        ("runtime", "get", "--output", "json"),
        ("runtime", "get", "--output=json"),
    ],
)
def test_global_options_work_before_and_after_the_command(
    daemon: RecordingDaemon, kheish: CommandLine, words: tuple[str, ...]
) -> None:
    daemon.answers["GET /v1/runtime"] = (200, {"model": "m", "routes": []})
    assert kheish(*words).stdout == '{"model":"m","routes":[]}\n'


def test_the_word_after_an_option_of_a_command_is_its_value_even_if_it_looks_global(
    daemon: RecordingDaemon, kheish: CommandLine
) -> None:
    daemon.answers["POST /v1/sessions/demo/end"] = (200, {})
    assert kheish("sessions", "end", "demo", "--reason", "--token").exit_code == 0
    assert daemon.asked[0].body == {"reason": "--token"}


def test_a_flag_anywhere_beats_the_environment_and_a_trailing_slash_is_cut(
    daemon: RecordingDaemon, kheish: CommandLine
) -> None:
    daemon.answers["GET /v1/status"] = (200, {})
    result = kheish("status", "--base-url", daemon.url + "/", KHEISH_DAEMON_URL="http://127.0.0.1:9")
    assert (result.exit_code, daemon.requests()) == (0, [("GET", "/v1/status")])


def _token(daemon: RecordingDaemon) -> str | None:
    return daemon.asked[-1].headers.get("authorization")


def test_a_token_comes_from_flag_file_or_environment_and_a_flag_wins(
    daemon: RecordingDaemon, kheish: CommandLine, tmp_path: Path
) -> None:
    daemon.answers["GET /v1/status"] = (200, {})
    file = tmp_path / "token"
    file.write_text("  from-file\n")
    seen = []
    for words, env in [
        (("status",), {}),
        (("status", "--token", "from-flag"), {"KHEISH_DAEMON_TOKEN_FILE": str(file)}),
        (("--token-file", str(file), "status"), {"KHEISH_DAEMON_TOKEN": "from-env"}),
        (("status",), {"KHEISH_DAEMON_TOKEN": "from-env"}),
        (("status",), {"KHEISH_DAEMON_TOKEN_FILE": str(file)}),
    ]:
        assert kheish(*words, **env).exit_code == 0
        seen.append(_token(daemon))
    assert seen == [None, "Bearer from-flag", "Bearer from-file", "Bearer from-env", "Bearer from-file"]


@pytest.mark.parametrize(
    ("words", "env", "code"),
    [
        (("--token", "a", "--token-file", "f", "status"), {}, 2),
        (("--token", "a", "status", "--token-file", "f"), {}, 2),
        (("--token", "a", "--token-file", "f", "serve"), {}, 2),
        (("--token", " ", "status"), {}, 2),
        (("status",), {"KHEISH_DAEMON_TOKEN": "a", "KHEISH_DAEMON_TOKEN_FILE": "f"}, 1),
        (("status",), {"KHEISH_DAEMON_TOKEN": "  "}, 1),
        (("status", "--token-file", "/no/such/file"), {}, 1),
        (("status", "--token", "two\nlines"), {}, 1),
    ],
)
def test_an_unusable_token_ends_the_command_before_any_request(
    daemon: RecordingDaemon, kheish: CommandLine, words: tuple[str, ...], env: dict[str, str], code: int
) -> None:
    assert (kheish(*words, **env).exit_code, daemon.asked) == (code, [])


def test_a_token_is_in_no_output_of_a_failing_command(daemon: RecordingDaemon, kheish: CommandLine) -> None:
    result = kheish("runs", "get", "x", "--token", "s3cret-token")
    assert result.exit_code == 5
    assert "s3cret-token" not in result.output


def _commands(group: CommandGroup, context: click.Context) -> Iterator[tuple[str, click.Command]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, name
        yield name, command
        if isinstance(command, CommandGroup):
            yield from ((f"{name} {below}", found) for below, found in _commands(command, context))


def test_every_command_loads_has_help_and_every_alias_reaches_its_command() -> None:
    root = build()
    context = click.Context(root)
    for path, command in [("", root), *_commands(root, context)]:
        assert command.get_help(click.Context(command, info_name=path)), path
        if isinstance(command, CommandGroup):
            for alias, name in command.aliases.items():
                assert command.get_command(context, alias) is command.get_command(context, name) is not None


def test_the_command_tree_is_the_documented_one() -> None:
    root = build()
    tree = {path for path, command in _commands(root, click.Context(root)) if not isinstance(command, CommandGroup)}
    assert tree == set(
        """serve;up;status;capabilities;help;completion;events stream;doctor routes
        sessions list;sessions create;sessions get;sessions input;sessions chat;sessions events;sessions stream
        sessions set-route;sessions set-reply-targets;sessions clear-reply-targets;sessions interrupt;sessions end
        sessions approve;sessions deny;sessions vacuum
        runs list;runs get;runs events;runs stream;runs wait;runs cancel;runs prune;runs external-actions
        audit verify;audit export;audit relocate-key;audit rotate-key
        approvals list;approvals show;approvals allow;approvals deny;approvals allow-all;approvals deny-all
        questions list;questions show;questions answer;questions cancel
        runtime get;runtime revisions;runtime set-model;runtime set-route
        runtime remove-route;runtime set-permission-mode
        runtime auth subject;runtime auth revoke-subject;runtime auth lease;runtime auth revoke-lease
        runtime auth revoke-slot;runtime permissions check;runtime permissions matrix
        runtime tool-limits get;runtime tool-limits set
        secrets generate;secrets list;secrets get;secrets set;secrets delete;secrets rekey;secrets export
        state verify;state backup;state restore;state export;state vacuum
        """.replace("\n", ";")
        .replace("        ", "")
        .strip(";")
        .split(";")
    )


def test_help_lists_every_command_with_its_aliases(kheish: CommandLine) -> None:
    for words in (("--help",), ("-h",), ("help",)):
        listed = kheish(*words).stdout
        for name in ("serve, start", "sessions, session", "approvals, approval", "runtime", "capabilities"):
            assert f"  {name} " in listed
    assert "get, show" in kheish("run", "--help").stdout


@pytest.mark.parametrize(
    "words", [("nonsense",), ("runs", "get"), ("runs", "list", "--what"), ("status", "--output", "xml")]
)
def test_wrong_usage_is_told_on_standard_error_and_ends_with_2(kheish: CommandLine, words: tuple[str, ...]) -> None:
    result = kheish(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Usage:" in result.stderr


@pytest.mark.parametrize(
    "words", [["--help"], ["runs", "--help"], ["sessions", "input", "--help"], ["serve", "--help"]]
)
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys\nfrom kheish.daemon.main import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "heavy = {'pydantic', 'rich', 'httpx2', 'fastapi', 'uvicorn', 'asyncio', 'sqlite3', 'structlog', 'ssl',"
        " 'orjson', 'kheish.sdk.client', 'kheish.sdk.types', 'kheish.engine'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, env={"PYTHONPATH": "src"}
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: kheish-daemon" in done.stdout


def test_the_version_is_printed(kheish: CommandLine) -> None:
    for flag in ("-V", "--version"):
        result = kheish(flag)
        assert result.exit_code == 0
        assert result.stdout.startswith("kheish-daemon ")
