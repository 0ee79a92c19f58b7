from __future__ import annotations

from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result

from kheish.daemon.main import PROGRAM, build
from tests.cli.recording_daemon import RecordingDaemon


@pytest.fixture
def daemon() -> Iterator[RecordingDaemon]:
    with RecordingDaemon() as server:
        yield server


class CommandLine:
    """Runs `kheish-daemon` in this process against one daemon."""

    def __init__(self, url: str) -> None:
        self.env: dict[str, str | None] = {"KHEISH_DAEMON_URL": url}

    def __call__(self, *words: str, stdin: str | bytes | None = None, **env: str) -> Result:
        return CliRunner().invoke(build(), words, input=stdin, env={**self.env, **env}, prog_name=PROGRAM)


@pytest.fixture
def kheish(daemon: RecordingDaemon) -> CommandLine:
    return CommandLine(daemon.url)
