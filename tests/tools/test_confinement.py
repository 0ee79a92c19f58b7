from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheish.tools.confinement import Place, Workspace
from kheish.tools.failures import ToolFailure

SECRET = b"outside"


@pytest.fixture
def workspace(root: Path) -> Workspace:
    (root.parent / "secret.txt").write_bytes(SECRET)
    (root / "sub").mkdir()
    (root / "sub" / "file.txt").write_bytes(b"inside")
    (root / "out").symlink_to(root.parent)
    (root / "in").symlink_to("sub")
    (root / "loop").symlink_to("loop")
    return Workspace(root)


def _read(workspace: Workspace, place: Place) -> bytes:
    with workspace.file(place) as handle:
        return os.read(handle, 100)


@pytest.mark.parametrize(
    "path",
    [
        "sub/file.txt",
        "./sub//file.txt",
        "sub/../sub/file.txt",
        "in/file.txt",
        "in/../sub/file.txt",
        "{root}/sub/file.txt",
    ],
)
def test_a_path_to_a_file_inside_reads_it_however_it_is_written(workspace: Workspace, path: str) -> None:
    place = workspace.resolve(path.format(root=workspace.root))

    assert (place.relative, _read(workspace, place)) == ("sub/file.txt", b"inside")


@pytest.mark.parametrize(
    "path",
    [
        "../secret.txt",
        "sub/../../secret.txt",
        "..",
        "/",
        "/etc/passwd",
        "{root}/../secret.txt",
        "{root}2/x",
        "out/secret.txt",
        "out",
    ],
)
def test_a_path_that_leads_outside_is_refused(workspace: Workspace, path: str) -> None:
    for resolve in (workspace.resolve, workspace.resolve_target):
        with pytest.raises(ToolFailure, match=r"outside the workspace|names a directory|symbolic link|not a directory"):
            _read(workspace, resolve(path.format(root=workspace.root)))


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("", "empty"),
        (" ", "empty"),
        ("a\0b", "NUL"),
        ("x" * 256, "too long"),
        ("a/" * 2100, "too long"),
        ("\ud800", "Unicode"),
    ],
)
def test_a_path_no_file_can_have_is_refused(workspace: Workspace, path: str, word: str) -> None:
    with pytest.raises(ToolFailure, match=word):
        workspace.resolve(path)


def test_the_root_of_the_machine_is_outside_wherever_the_daemon_was_started(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace.root)

    for resolve in (workspace.resolve, workspace.resolve_target):
        with pytest.raises(ToolFailure):
            resolve("/")


def test_a_workspace_that_is_the_whole_machine_holds_every_path(tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_bytes(b"inside")
    everything = Workspace(Path("/"), forbidden=(tmp_path / "state",))

    place = everything.resolve(f"{tmp_path}/file.txt")

    assert place.absolute == f"{tmp_path.resolve()}/file.txt"
    assert _read(everything, place) == b"inside"
    with pytest.raises(ToolFailure):
        everything.resolve(f"{tmp_path.resolve()}/state/kheish.db")


def test_a_loop_of_links_is_refused(workspace: Workspace) -> None:
    with pytest.raises(ToolFailure, match="symbolic link: loop"):
        _read(workspace, workspace.resolve("loop"))


def test_the_state_root_is_outside_even_when_it_lies_inside(root: Path) -> None:
    state = root / "state"
    state.mkdir()
    (state / "kheish.db").write_bytes(SECRET)
    (root / "alias").symlink_to(state)
    workspace = Workspace(root, (state,))

    for path in ("state", "state/kheish.db", "alias/kheish.db", f"{state}/kheish.db", "state/new"):
        with pytest.raises(ToolFailure, match="outside the workspace"):
            workspace.resolve(path)


def test_a_second_name_of_the_state_root_is_recognised_when_it_is_opened(root: Path) -> None:
    state = root / "state"
    state.mkdir()
    (state / "kheish.db").write_bytes(SECRET)
    workspace = Workspace(root, (state,))
    state.rename(root / "renamed")

    with pytest.raises(ToolFailure, match="outside the workspace"):
        _read(workspace, workspace.resolve("renamed/kheish.db"))


def test_a_root_that_became_a_link_leads_nowhere(root: Path) -> None:
    state = root.parent / "state"
    state.mkdir()
    (state / "kheish.db").write_bytes(SECRET)
    workspace = Workspace(root, forbidden=(state,))
    place = Place(root=root, parts=("kheish.db",))
    root.rmdir()
    root.symlink_to(state)

    for resolve in (workspace.resolve, workspace.resolve_target):
        with pytest.raises(ToolFailure):
            resolve("kheish.db")
    with pytest.raises(ToolFailure):
        _read(workspace, place)


def test_a_folder_swapped_for_a_link_after_the_check_leads_nowhere(workspace: Workspace) -> None:
    place = workspace.resolve("sub/secret.txt")
    (workspace.root / "sub").rename(workspace.root / "moved")
    (workspace.root / "sub").symlink_to(workspace.root.parent)

    with pytest.raises(ToolFailure, match="not a directory: sub"):
        _read(workspace, place)


def test_a_file_swapped_for_a_link_after_the_check_leads_nowhere(workspace: Workspace) -> None:
    place = workspace.resolve("sub/file.txt")
    (workspace.root / "sub" / "file.txt").unlink()
    (workspace.root / "sub" / "file.txt").symlink_to(workspace.root.parent / "secret.txt")

    with pytest.raises(ToolFailure, match="symbolic link"):
        _read(workspace, place)


def test_a_pipe_is_refused_without_waiting_for_a_writer(workspace: Workspace) -> None:
    os.mkfifo(workspace.root / "pipe")

    with pytest.raises(ToolFailure, match="not a regular file: pipe"):
        _read(workspace, workspace.resolve("pipe"))


def test_making_folders_stops_at_a_link(workspace: Workspace) -> None:
    with pytest.raises(ToolFailure), workspace.directory(("out", "made"), create=True):
        pass

    assert not (workspace.root.parent / "made").exists()


NAMES = st.sampled_from(["..", ".", "", "sub", "out", "in", "deep", "loop", "file.txt", "secret.txt", "new", "é"])
PATHS = st.builds(
    lambda prefix, names: prefix + "/".join(names),
    st.sampled_from(["", "/", "{root}/"]),
    st.lists(NAMES | st.text(max_size=3), max_size=8),
)


@pytest.fixture(scope="module")
def maze() -> Iterator[Workspace]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve() / "root"
        (root / "sub" / "deep").mkdir(parents=True)
        (root.parent / "secret.txt").write_bytes(SECRET)
        for file in (root / "file.txt", root / "sub" / "file.txt"):
            file.write_bytes(b"inside")
        (root / "out").symlink_to(root.parent)
        (root / "sub" / "out").symlink_to("../..")
        (root / "sub" / "deep" / "in").symlink_to(root / "sub")
        (root / "in").symlink_to("sub/deep")
        (root / "loop").symlink_to("sub/loop")
        (root / "sub" / "loop").symlink_to("../loop")
        (root / "sub" / "secret.txt").symlink_to("../../secret.txt")
        yield Workspace(root)


@given(path=PATHS)
def test_no_path_escapes_the_root(maze: Workspace, path: str) -> None:
    for resolve in (maze.resolve, maze.resolve_target):
        try:
            place = resolve(path.replace("{root}", str(maze.root)))
        except ToolFailure:
            continue
        assert ".." not in place.parts
        assert place.absolute == str(maze.root) or place.absolute.startswith(f"{maze.root}/")
        try:
            assert _read(maze, place) == b"inside"
        except ToolFailure:
            continue
