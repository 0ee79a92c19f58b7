"""What keeps a daemon from starting, and what a start protects."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kheish.core.problems import Problem
from kheish.daemon.composition import open_daemon
from kheish.daemon.settings import Settings, from_options
from kheish.daemon.state_root import StateRootUnusable
from kheish.providers.tables import RoutesError
from kheish.store.lock import StateRootLocked

pytestmark = pytest.mark.anyio

ROUTES = '[routes.one]\ndriver = "scripted"\ndefault_model = "m"\nscript = "s.toml"\n'
DUMPABLE = """
import ctypes
from kheish.daemon.serve import _close_to_children
_close_to_children()
print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
"""


def settings(root: Path, **options: object) -> Settings:
    (root / "workspace").mkdir(exist_ok=True)
    (root / "routes.toml").write_text(ROUTES)
    (root / "s.toml").write_text('[fallback]\ntext = "hi"\n')
    given = {
        "state_root": str(root / "state"),
        "workspace_root": str(root / "workspace"),
        "routes_file": str(root / "routes.toml"),
    }
    return from_options({**given, **options}, {})


async def refusal(settings: Settings) -> Problem:
    with pytest.raises(Problem) as caught:
        async with open_daemon(settings):
            raise AssertionError("it started")
    return caught.value


async def test_one_state_root_has_one_daemon(tmp_path: Path) -> None:
    async with open_daemon(settings(tmp_path)):
        refused = await refusal(settings(tmp_path))
    async with open_daemon(settings(tmp_path)):
        pass

    assert isinstance(refused, StateRootLocked)
    assert str(tmp_path / "state") in refused.detail


async def test_a_start_that_fails_gives_the_state_root_back(tmp_path: Path) -> None:
    refused = await refusal(settings(tmp_path, routes_file=str(tmp_path / "missing.toml")))
    async with open_daemon(settings(tmp_path)):
        pass

    assert isinstance(refused, RoutesError)


async def test_a_workspace_inside_the_state_root_is_refused(tmp_path: Path) -> None:
    for state_root in (tmp_path / "workspace", tmp_path):
        refused = await refusal(settings(tmp_path, state_root=str(state_root)))
        assert isinstance(refused, StateRootUnusable)
        assert "separate directories" in refused.detail


async def test_a_state_root_inside_the_workspace_is_served_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_daemon(settings(tmp_path, state_root=str(tmp_path / "workspace" / "state"))):
        pass

    assert "daemon.state_root_inside_workspace" in "".join(capsys.readouterr())


async def test_a_database_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "kheish.db").write_bytes(b"not a database, and long enough to be read as one" * 50)
    refused = await refusal(settings(tmp_path))

    assert isinstance(refused, StateRootUnusable)
    assert "kheish.db" in refused.detail


async def test_a_state_root_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    refused = await refusal(settings(tmp_path))

    assert isinstance(refused, StateRootUnusable)


async def test_a_state_root_whose_restore_was_interrupted_is_refused(tmp_path: Path) -> None:
    left = tmp_path / "state" / "backups" / ".state.0123abcd.restoring"
    left.mkdir(parents=True)
    refused = await refusal(settings(tmp_path))

    assert isinstance(refused, StateRootUnusable)
    assert "was interrupted" in refused.detail
    assert str(left) in refused.detail
    assert not (tmp_path / "state" / "kheish.db").exists()


async def test_two_daemons_live_in_one_process(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    async with open_daemon(settings(tmp_path / "a")) as one, open_daemon(settings(tmp_path / "b")) as other:
        assert one.engine is not other.engine


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_DUMPABLE is Linux's")
def test_the_daemons_memory_is_closed_to_its_children() -> None:
    printed = subprocess.run([sys.executable, "-c", DUMPABLE], capture_output=True, text=True, check=True)

    assert printed.stdout.strip() == "0"
