"""The image's entrypoint without an engine: what it refuses, and what it becomes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the image's userland is GNU's")

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "docker" / "entrypoint.sh"
REFUSED = 64
OTHER = (str(shutil.which("setpriv")), "--reuid=10001", "--regid=10001", "--clear-groups")
"""Runs what follows as the user of the image; needs root."""


class Entrypoint:
    """Runs the script in a folder of its own; what it becomes prints its words instead of serving."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state, self.workspace = root / "state", root / "workspace"
        self.token = self.file("admin-token", "hunter2-admin")
        programs = root / "bin"
        programs.mkdir()
        daemon = programs / "kheish-daemon"
        daemon.write_text('#!/bin/sh\nprintf "became:"\nprintf " %s" "$@"\nprintf "\\n"\n')
        daemon.chmod(0o755)
        self.path = f"{programs}:{os.environ['PATH']}"

    def file(self, name: str, content: str, mode: int = 0o400) -> str:
        path = self.root / name
        path.write_text(content)
        path.chmod(mode)
        return str(path)

    def environment(self, **changes: str) -> dict[str, str]:
        image = {
            "PATH": self.path,
            "KHEISH_BIND": "0.0.0.0:4000",
            "KHEISH_STATE_ROOT": str(self.state),
            "KHEISH_WORKSPACE_ROOT": str(self.workspace),
            "KHEISH_HTTP_AUTH_MODE": "bearer",
        }
        return {**image, **changes}

    def run(self, *words: str, user: tuple[str, ...] = (), **changes: str) -> subprocess.CompletedProcess[str]:
        command = [*user, "sh", str(SCRIPT), *words]
        env = self.environment(**changes)
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, check=False)

    def refused(self, *words: str, **changes: str) -> str:
        done = self.run(*words, **changes)
        assert done.returncode == REFUSED, done
        assert done.stdout == ""
        lines = done.stderr.splitlines()
        assert all(line.startswith("kheish-entrypoint: ") for line in lines)
        assert len(lines) == len(set(lines)), "nothing is said twice"
        assert "hunter2" not in done.stderr
        return done.stderr

    def became(self, *words: str, **changes: str) -> str:
        done = self.run(*words, **changes)
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout.strip()

    def checked(self, *words: str, **changes: str) -> Any:
        done = self.run("check", *words, **changes)
        found = json.loads(done.stdout)
        assert done.returncode == (0 if found["ok"] else REFUSED)
        return found


@pytest.fixture
def entry() -> Iterator[Entrypoint]:
    # Not below pytest's folder, which no other user may enter.
    with tempfile.TemporaryDirectory(prefix="kheish-entrypoint-") as folder:
        root = Path(folder)
        root.chmod(0o777)
        yield Entrypoint(root)


def test_without_a_token_nothing_starts_and_the_remedy_is_named(entry: Entrypoint) -> None:
    """Case 1."""
    text = entry.refused()

    for part in ("requires an admin token", "KHEISH_DAEMON_ADMIN_TOKEN_FILE", "KHEISH_DAEMON_ADMIN_TOKEN"):
        assert part in text
    assert not entry.state.exists()


def test_relative_paths_are_refused_from_flags_and_from_the_environment(entry: Entrypoint) -> None:
    """Cases 2, 3 and 11."""
    token = {"KHEISH_DAEMON_ADMIN_TOKEN_FILE": entry.token}

    assert "--state-root must be an absolute path" in entry.refused(KHEISH_STATE_ROOT="state", **token)
    assert "--workspace-root must be an absolute path" in entry.refused("serve", "--workspace-root=work", **token)
    assert "--routes-file must be an absolute path" in entry.refused(KHEISH_ROUTES_FILE="routes.toml", **token)


def test_a_routes_file_that_is_not_there_or_no_file_is_refused(entry: Entrypoint) -> None:
    """Case 11."""
    token = {"KHEISH_DAEMON_ADMIN_TOKEN_FILE": entry.token}
    absent = str(entry.root / "absent.toml")

    text = entry.refused(KHEISH_ROUTES_FILE=absent, **token)
    assert "--routes-file must point to a regular file" in text
    assert absent in text
    assert "must point to a regular file" in entry.refused("--routes-file", str(entry.root), **token)
    if not os.getuid():
        Path(entry.token).chmod(0o444)
        text = entry.run("--routes-file", entry.file("routes", "", 0o600), user=OTHER, **token).stderr
        assert "--routes-file" in text
        assert "is not readable by uid 10001 (owner 0:0, mode 600); let that user read it" in text


@pytest.mark.parametrize("workspace", ["same", "link", "inside", "around", "everything"])
def test_state_and_workspace_must_lie_apart(entry: Entrypoint, workspace: str) -> None:
    """Case 4, and nested roots."""
    state = entry.root / "a" / "state"
    state.mkdir(parents=True)
    (entry.root / "link").symlink_to(state)
    other = {
        "same": state,
        "link": entry.root / "link",
        "inside": state / "work",
        "around": entry.root / "a",
        "everything": Path("/"),
    }[workspace]

    text = entry.refused(
        KHEISH_STATE_ROOT=str(state),
        KHEISH_WORKSPACE_ROOT=str(other),
        KHEISH_DAEMON_ADMIN_TOKEN_FILE=entry.token,
    )

    assert "must not resolve to the same directory" in text
    assert not (state / "work").exists()


def test_a_bind_to_the_network_needs_bearer_by_name(entry: Entrypoint) -> None:
    """Cases 5 and 7."""
    for mode in ("none", "auto"):
        text = entry.refused(KHEISH_HTTP_AUTH_MODE=mode, KHEISH_DAEMON_ADMIN_TOKEN_FILE=entry.token)
        assert "non-loopback binds require bearer" in text
        assert "KHEISH_ALLOW_INSECURE_NON_LOOPBACK=true" in text


@pytest.mark.parametrize("bind", ["127.0.0.1:4000", "127.9.9.9:1", "localhost:4000", "[::1]:4000", "::1:4000"])
def test_a_loopback_bind_needs_no_token(entry: Entrypoint, bind: str) -> None:
    assert entry.became(KHEISH_HTTP_AUTH_MODE="none", KHEISH_BIND=bind) == "became: serve"


@pytest.mark.parametrize("bind", ["0.0.0.0:4000", "[::]:4000", "10.0.0.1:4000", "128.0.0.1:4000", "4000"])
def test_every_other_bind_needs_one(entry: Entrypoint, bind: str) -> None:
    assert "requires an admin token" in entry.refused(KHEISH_BIND=bind)


@pytest.mark.parametrize("word", ["true", "1"])
def test_the_insecure_opt_in_silences_the_script_only(entry: Entrypoint, word: str) -> None:
    """Case 6: the daemon itself refuses what passes here."""
    opted = {"KHEISH_ALLOW_INSECURE_NON_LOOPBACK": word}

    assert entry.became(KHEISH_HTTP_AUTH_MODE="none", **opted) == "became: serve"
    assert "requires an admin token" in entry.refused(KHEISH_HTTP_AUTH_MODE="auto", **opted)
    token = {"KHEISH_DAEMON_ADMIN_TOKEN_FILE": entry.token}
    assert entry.became(KHEISH_HTTP_AUTH_MODE="auto", **opted, **token) == "became: serve"


@pytest.mark.parametrize("word", ["yes", "TRUE", "", "on"])
def test_nothing_else_opts_in(entry: Entrypoint, word: str) -> None:
    text = entry.refused(KHEISH_HTTP_AUTH_MODE="none", KHEISH_ALLOW_INSECURE_NON_LOOPBACK=word)
    assert "non-loopback binds require bearer" in text


def test_a_secret_given_twice_is_refused_whatever_the_mix(entry: Entrypoint) -> None:
    """Cases 8 and 9."""
    admin = entry.refused(KHEISH_DAEMON_ADMIN_TOKEN="hunter2", KHEISH_DAEMON_ADMIN_TOKEN_FILE=entry.token)
    mixed = entry.refused("--http-admin-token-file", entry.token, KHEISH_DAEMON_ADMIN_TOKEN="hunter2")
    reading = entry.refused(
        "--http-readonly-token=hunter2",
        KHEISH_DAEMON_READONLY_TOKEN_FILE=entry.token,
        KHEISH_DAEMON_ADMIN_TOKEN_FILE=entry.token,
    )
    keys = {"KHEISH_AUTH_STORE_MASTER_KEY": "hunter2", "KHEISH_AUTH_STORE_MASTER_KEY_FILE": entry.token}
    master = entry.refused("secrets", "list", "--offline", "--state-root", "/var/lib/kheish/state", **keys)

    for text, words in (
        (admin, ("admin token", "KHEISH_DAEMON_ADMIN_TOKEN_FILE")),
        (mixed, ("admin token", "KHEISH_DAEMON_ADMIN_TOKEN_FILE")),
        (reading, ("read-only token", "KHEISH_DAEMON_READONLY_TOKEN_FILE")),
        (master, ("KHEISH_AUTH_STORE_MASTER_KEY", "KHEISH_AUTH_STORE_MASTER_KEY_FILE")),
    ):
        assert "not both" in text
        assert all(word in text for word in words)


@pytest.mark.parametrize(
    "variable",
    ["KHEISH_DAEMON_ADMIN_TOKEN_FILE", "KHEISH_DAEMON_READONLY_TOKEN_FILE", "KHEISH_AUTH_STORE_MASTER_KEY_FILE"],
)
def test_a_secret_file_must_be_a_file_that_the_containers_user_can_read(entry: Entrypoint, variable: str) -> None:
    """Case 10; for commands that do not serve as well."""
    given = {"KHEISH_DAEMON_ADMIN_TOKEN_FILE": entry.token, variable: str(entry.root)}
    for words in ((), ("status",)):
        text = entry.refused(*words, **given)
        assert variable in text
        assert "must point to a regular file" in text

    absent = entry.refused("status", **{variable: str(entry.root / "no-such-folder" / "file")})
    assert f"{variable} must point to a regular file" in absent
    assert "does not exist" in absent

    closed = entry.file("closed", "hunter2", 0o000)
    user = () if os.getuid() else OTHER
    done = entry.run("status", user=user, **{variable: closed})
    assert done.returncode == REFUSED
    assert f"{variable}: {closed} is not readable" in done.stderr
    assert "mode 0" in done.stderr
    if user:
        folder = entry.root / "nobody-enters"
        folder.mkdir(mode=0o700)
        done = entry.run("status", user=user, **{variable: str(folder / "file")})
        assert f"{variable}: {folder}/file is not readable by uid 10001 (not even visible)" in done.stderr


def test_a_secret_that_others_can_read_or_that_lies_in_the_state_is_warned_of(entry: Entrypoint) -> None:
    entry.state.mkdir()
    shown = entry.file("shown", "hunter2", 0o444)
    kept = entry.file("state/key", "hunter2")
    given = {"KHEISH_DAEMON_ADMIN_TOKEN_FILE": shown, "KHEISH_AUTH_STORE_MASTER_KEY_FILE": kept}

    found = entry.checked(**given)
    assert found["ok"]
    assert [text.split(";")[0] for text in found["warnings"]] == [
        f"KHEISH_DAEMON_ADMIN_TOKEN_FILE: others can read {shown} (owner {os.getuid()}:{os.getgid()}, mode 444)",
        f"KHEISH_AUTH_STORE_MASTER_KEY_FILE: {kept} lies under the state root: a copy of the state holds its key",
    ]
    done = entry.run(**given)
    assert (done.returncode, done.stdout.strip()) == (0, "became: serve")
    assert [line.partition(" warning: ")[2] for line in done.stderr.splitlines()] == found["warnings"]


def test_a_group_that_is_the_daemons_own_may_read_a_secret(entry: Entrypoint) -> None:
    """As Kubernetes mounts secrets for a pod with an fsGroup."""
    shared = Path(entry.file("shared", "hunter2", 0o440))
    assert entry.checked(KHEISH_DAEMON_ADMIN_TOKEN_FILE=str(shared))["warnings"] == []
    if not os.getuid():
        os.chown(shared, -1, 12345)
        assert len(entry.checked(KHEISH_DAEMON_ADMIN_TOKEN_FILE=str(shared))["warnings"]) == 1


def test_a_refusal_is_one_line_whatever_a_path_holds(entry: Entrypoint) -> None:
    assert (
        len(entry.refused("status", KHEISH_DAEMON_ADMIN_TOKEN_FILE="/a\nkheish-entrypoint: fine\x1b[2J").splitlines())
        == 1
    )


def test_a_flag_without_its_value_is_refused(entry: Entrypoint) -> None:
    """Case 12."""
    assert "--bind requires a value" in entry.refused("serve", "--bind", KHEISH_DAEMON_ADMIN_TOKEN_FILE=entry.token)


@pytest.mark.parametrize(
    ("words", "became"),
    [
        ((), "serve"),
        (("--log-level", "debug"), "serve --log-level debug"),
        (("serve", "--log-level", "debug"), "serve --log-level debug"),
        (("start",), "start"),
        (("up",), "up"),
        (("--output", "json"), "serve --output json"),
        (("--output", "json", "serve"), "--output json serve"),
    ],
)
def test_every_serving_form_is_checked_and_then_run_unchanged(
    entry: Entrypoint, words: tuple[str, ...], became: str
) -> None:
    """Case 13 and decision 43."""
    assert "requires an admin token" in entry.refused(*words)
    assert entry.became(*words, KHEISH_DAEMON_ADMIN_TOKEN_FILE=entry.token) == f"became: {became}"


@pytest.mark.parametrize(
    "words",
    [("status",), ("--output", "json", "status"), ("--token-file=x", "runs", "list"), ("--help",), ("--version",)],
)
def test_a_command_that_does_not_serve_needs_no_token_and_no_volumes(entry: Entrypoint, words: tuple[str, ...]) -> None:
    assert entry.became(*words, KHEISH_STATE_ROOT="relative") == f"became: {' '.join(words)}"
    assert not entry.state.exists()


def test_the_last_flag_beats_the_first_and_both_beat_the_environment(entry: Entrypoint) -> None:
    token = {"KHEISH_DAEMON_ADMIN_TOKEN_FILE": entry.token}
    words = ("serve", "--bind=0.0.0.0:1", "--bind", "127.0.0.1:2", "--http-auth-mode=none", "--unknown", "x")

    assert entry.became(*words, KHEISH_STATE_ROOT=str(entry.state)) == f"became: {' '.join(words)}"
    assert "absolute" in entry.refused("serve", "--state-root", "/x", "--state-root=y", **token)


def test_an_empty_variable_counts_as_unset(entry: Entrypoint) -> None:
    empty = {"KHEISH_ROUTES_FILE": "", "KHEISH_DAEMON_ADMIN_TOKEN": "", "KHEISH_AUTH_STORE_MASTER_KEY_FILE": ""}
    assert entry.became(KHEISH_DAEMON_ADMIN_TOKEN_FILE=entry.token, **empty) == "became: serve"


def test_everything_that_is_wrong_is_said_at_once(entry: Entrypoint) -> None:
    text = entry.refused(
        "--state-root=relative",
        "--workspace-root=relative",
        KHEISH_ROUTES_FILE="relative",
        KHEISH_DAEMON_READONLY_TOKEN_FILE=str(entry.root),
    )

    assert len(text.splitlines()) == 5


def test_both_roots_are_created_for_their_owner_alone(entry: Entrypoint) -> None:
    entry.became(KHEISH_DAEMON_ADMIN_TOKEN_FILE=entry.token)

    assert [path.stat().st_mode & 0o777 for path in (entry.state, entry.workspace)] == [0o700, 0o700]


def test_a_root_that_cannot_be_made_or_written_is_refused(entry: Entrypoint) -> None:
    """Refusal 14."""
    blocked = entry.file("blocked", "a file where a directory should be")
    token = {"KHEISH_DAEMON_ADMIN_TOKEN_FILE": entry.token}
    text = entry.refused(KHEISH_STATE_ROOT=f"{blocked}/state", **token)

    assert "cannot be created" in text
    assert [each["check"] for each in entry.checked(KHEISH_STATE_ROOT=f"{blocked}/state")["refusals"]] == [13, 14]
    if not os.getuid():
        entry.state.mkdir(mode=0o755)
        Path(entry.token).chmod(0o444)
        done = entry.run(user=OTHER, **token)
        assert done.returncode == REFUSED
        assert "is not writable by uid 10001 (owner 0:0, mode 755)" in done.stderr


def test_check_prints_every_refusal_as_json_and_changes_nothing(entry: Entrypoint) -> None:
    quoted = str(entry.root / 'a "quoted" \\ name')
    found = entry.checked(KHEISH_ROUTES_FILE=quoted, KHEISH_HTTP_AUTH_MODE="none")

    assert [refusal["check"] for refusal in found["refusals"]] == [5, 12]
    assert quoted in found["refusals"][0]["text"]
    assert entry.checked("serve", KHEISH_DAEMON_ADMIN_TOKEN_FILE=entry.token) == {
        "ok": True,
        "refusals": [],
        "warnings": [],
    }
    assert not entry.state.exists()


def test_refusals_come_in_the_order_of_the_contract(entry: Entrypoint) -> None:
    found = entry.checked(
        "--bind",
        KHEISH_STATE_ROOT="x",
        KHEISH_WORKSPACE_ROOT="y",
        KHEISH_ROUTES_FILE="z",
        KHEISH_DAEMON_ADMIN_TOKEN="hunter2",
        KHEISH_DAEMON_ADMIN_TOKEN_FILE=str(entry.root),
        KHEISH_HTTP_AUTH_MODE="auto",
    )

    assert [refusal["check"] for refusal in found["refusals"]] == [1, 2, 3, 4, 6, 9, 12]
