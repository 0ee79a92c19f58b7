"""Shell completion, asked of the shells themselves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Shell = Callable[..., str]


def missing(shell: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"there is no {shell} on this machine")


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Run a script in a shell that finds `kheish-daemon` and nobody's own configuration."""
    program = tmp_path / "bin" / "kheish-daemon"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m kheish "$@"\n')
    program.chmod(0o755)
    (tmp_path / "routes.toml").touch()
    home = {"HOME": str(tmp_path), "ZDOTDIR": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    path = {"PATH": f"{program.parent}:{os.environ['PATH']}", "PYTHONPATH": str(Path("src").absolute())}

    def run(*command: str) -> str:
        env = {**os.environ, **home, **path}
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return done.stdout

    return run


CASES = [
    ("se", {"serve", "sessions", "secrets"}),
    ("sessions se", {"set-route", "set-reply-targets"}),
    ("runtime set-permission-mode p", {"plan"}),
    ("--output json runs ge", {"get"}),
    ("--output ", {"pretty", "json"}),
    ("secrets set x --provider o", {"openai", "openrouter"}),
    ("--b", {"--base-url", "--bind"}),
    ("--bind 127.0.0.1:0 --log-f", {"--log-format"}),
    ("--bind 127.0.0.1:0 --log-format j", {"json"}),
    ("nonsense x", set()),
]


@missing("bash")
@pytest.mark.parametrize(("typed", "offered"), CASES)
def test_bash_offers_commands_options_and_values(shell: Shell, typed: str, offered: set[str]) -> None:
    words = ["kheish-daemon", *typed.split(" ")]
    script = f"""
        source <(kheish-daemon completion bash)
        complete -p kheish-daemon >/dev/null || exit 1
        COMP_WORDS=({" ".join(f"'{word}'" for word in words)})
        COMP_CWORD={len(words) - 1}
        _kheish_daemon_completion kheish-daemon
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    assert set(shell("bash", "--norc", "-c", script).split()) == offered


@missing("bash")
def test_bash_completes_file_names_where_an_option_takes_one(shell: Shell) -> None:
    with_file = "COMP_WORDS=(kheish-daemon serve --routes-file rou); COMP_CWORD=3"
    script = f"""
        source <(kheish-daemon completion bash); {with_file}
        compopt() {{ echo "compopt $*"; }}
        _kheish_daemon_completion kheish-daemon
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    assert shell("bash", "--norc", "-c", script).split() == ["compopt", "-o", "default"]


@missing("fish")
@pytest.mark.parametrize(("typed", "offered"), CASES)
def test_fish_offers_the_same_with_what_each_is_for(shell: Shell, typed: str, offered: set[str]) -> None:
    script = f"kheish-daemon completion fish | source; complete -C 'kheish-daemon {typed}'"
    lines = shell("fish", "--no-config", "-c", script).splitlines()

    assert {line.split("\t")[0] for line in lines} == offered
    if typed == "se":
        assert any("\t" in line for line in lines)


@missing("zsh")
def test_zsh_takes_the_script_and_its_answers(shell: Shell) -> None:
    script = """
        autoload -Uz compinit && compinit -u -d "$HOME/dump"
        source <(kheish-daemon completion zsh)
        print -r -- $_comps[kheish-daemon]
        COMP_WORDS="kheish-daemon se" COMP_CWORD=1 _KHEISH_DAEMON_COMPLETE=zsh_complete kheish-daemon
    """
    said = shell("zsh", "-f", "-c", script).splitlines()

    assert said[0] == "_kheish_daemon_completion"
    assert said[1:4] == ["plain", "serve", "Run the daemon (the default)."]


def test_the_documented_lines_are_those_of_the_help(shell: Shell) -> None:
    told = shell("kheish-daemon", "completion", "--help")
    documented = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()

    for line in (
        "source <(kheish-daemon completion bash)",
        "source <(kheish-daemon completion zsh)",
        "kheish-daemon completion fish > ~/.config/fish/completions/kheish-daemon.fish",
    ):
        assert line in told
        assert line in documented
