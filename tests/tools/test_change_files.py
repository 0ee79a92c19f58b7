from __future__ import annotations

import asyncio
import base64
import fcntl
import hashlib
import os
import resource
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest

from kheish.core.jsonvalue import JsonObject, JsonValue
from kheish.tools.file_change import NOT_WRITTEN
from kheish.tools.file_locks import FileLocks
from kheish.tools.files_write import MAX_EDIT_BYTES, EditFile, WriteFile
from kheish.tools.patch import ApplyPatch
from kheish.tools.protocol import Tool, ToolOutcome
from tests.tools.conftest import Bench

pytestmark = pytest.mark.anyio


@pytest.fixture
def write(bench: Callable[[Tool], Bench]) -> Bench:
    return bench(WriteFile(FileLocks()))


@pytest.fixture
def edit(bench: Callable[[Tool], Bench]) -> Bench:
    return bench(EditFile(FileLocks()))


@pytest.fixture
def patch(bench: Callable[[Tool], Bench]) -> Bench:
    return bench(ApplyPatch(FileLocks()))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())


def _hunk(path: str, old: str, new: str, **more: JsonValue) -> JsonObject:
    return {"path": path, "old_text": old, "new_text": new, **more}


# write_file


async def test_write_file_makes_folders_and_leaves_nothing_else(write: Bench, root: Path) -> None:
    outcome = await write.run(path="a/b/c.txt", content="é\n")

    file = root / "a/b/c.txt"
    assert outcome.output == {"path": str(file), "bytes_written": 3, "sha256": _sha256(file.read_bytes())}
    assert outcome.context_updates == ({"type": "file_modified", "path": "a/b/c.txt"},)
    assert file.read_text() == "é\n"
    assert _files(root) == ["a/b/c.txt"]


async def test_write_file_takes_base64(write: Bench, root: Path) -> None:
    await write.output(path="a.bin", content_base64=base64.b64encode(b"\xff\x00").decode())

    assert (root / "a.bin").read_bytes() == b"\xff\x00"


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({}, "exactly one"),
        ({"content": "a", "content_base64": "YQ=="}, "exactly one"),
        ({"content_base64": "not base64!"}, "not valid base64"),
        ({"content_base64": "YQ"}, "not valid base64"),
        ({"content_base64": "é"}, "not valid base64"),
    ],
)
async def test_content_is_given_in_exactly_one_valid_way(
    write: Bench, root: Path, fields: JsonObject, word: str
) -> None:
    assert word in await write.error(path="a.txt", **fields)
    assert _files(root) == []


async def test_a_rewritten_file_keeps_its_mode_and_a_new_one_follows_the_umask(write: Bench, root: Path) -> None:
    script = root / "run.sh"
    script.write_text("old")
    script.chmod(0o751)
    reference = root / "reference"
    reference.touch()

    await write.output(path="run.sh", content="new")
    await write.output(path="new.txt", content="new")

    assert stat.S_IMODE(script.stat().st_mode) == 0o751
    assert (root / "new.txt").stat().st_mode == reference.stat().st_mode


async def test_write_file_refuses_links_and_directories(write: Bench, root: Path) -> None:
    outside = root.parent / "outside.txt"
    outside.write_text("kept")
    inside = root / "inside.txt"
    inside.write_text("kept")
    (root / "out").symlink_to(outside)
    (root / "in").symlink_to(inside)
    (root / "folder").mkdir()
    (root / "parent").symlink_to(root.parent)

    for path in ("out", "in"):
        assert await write.error(path=path, content="x") == f"refusing to follow a symbolic link: {path}"
    assert await write.error(path="folder", content="x") == "is a directory: folder"
    assert await write.error(path="new/", content="x") == "the path names a directory: new/"
    assert "outside the workspace" in await write.error(path="parent/new.txt", content="x")
    assert (outside.read_text(), inside.read_text()) == ("kept", "kept")
    assert sorted(os.listdir(root.parent)) == ["outside.txt", "workspace"]


async def test_a_link_put_in_the_place_of_a_folder_before_the_write_gets_nothing(write: Bench, root: Path) -> None:
    (root / "sub").mkdir()
    elsewhere = root.parent / "elsewhere"
    elsewhere.mkdir()
    prepared = await write.tool.prepare(write.call(path="sub/a.txt", content="x"), write.context)
    (root / "sub").rmdir()
    (root / "sub").symlink_to(elsewhere)

    outcome = await prepared.run()

    assert outcome.is_error
    assert list(elsewhere.iterdir()) == []


async def test_a_link_put_in_the_place_of_a_file_before_the_write_gets_nothing(write: Bench, root: Path) -> None:
    outside = root.parent / "outside.txt"
    outside.write_text("kept")
    prepared = await write.tool.prepare(write.call(path="a.txt", content="x"), write.context)
    (root / "a.txt").symlink_to(outside)

    assert (await prepared.run()).is_error
    assert outside.read_text() == "kept"


@pytest.mark.parametrize("exists", [True, False])
async def test_a_wrong_expected_sha256_leaves_the_file_as_it_was(write: Bench, root: Path, exists: bool) -> None:
    file = root / "a.txt"
    if exists:
        file.write_text("old")

    assert "expected" in await write.error(path="a.txt", content="new", expected_sha256="0" * 64)
    assert (file.read_text() if exists else file.exists()) == ("old" if exists else False)


async def test_a_right_expected_sha256_is_accepted_in_any_case(write: Bench, root: Path) -> None:
    (root / "a.txt").write_text("old")

    await write.output(path="a.txt", content="new", expected_sha256=_sha256(b"old").upper())

    assert (root / "a.txt").read_text() == "new"


async def test_a_file_that_changed_since_the_intent_is_not_overwritten_unseen(write: Bench, root: Path) -> None:
    file = root / "a.txt"
    file.write_text("old")
    call = write.call(path="a.txt", content="new", expected_sha256=_sha256(b"old"))
    prepared = await write.tool.prepare(call, write.context)
    file.write_text("someone else's")

    assert (await prepared.run()).is_error
    assert file.read_text() == "someone else's"


async def test_a_refused_write_leaves_no_temporary_file(write: Bench, root: Path) -> None:
    prepared = await write.tool.prepare(write.call(path="a", content="new"), write.context)
    (root / "a").mkdir()

    outcome = await prepared.run()

    assert outcome.is_error
    assert os.listdir(root) == ["a"]


# edit_file


async def test_edit_file_replaces_the_first_match_or_all(edit: Bench, root: Path) -> None:
    file = root / "a.txt"
    file.write_text("x x")

    first = await edit.output(path="a.txt", old_text="x", new_text="y")
    assert (first["replacements"], file.read_text()) == (1, "y x")
    assert first == {"path": str(file), "replacements": 1, "sha256": _sha256(b"y x")}

    file.write_text("x x")
    every = await edit.output(path="a.txt", old_text="x", new_text="xx", replace_all=True)
    assert (every["replacements"], file.read_text()) == (2, "xx xx")


async def test_lines_added_to_a_file_with_crlf_end_like_its_own(edit: Bench, root: Path) -> None:
    (root / "a.txt").write_bytes(b"one\r\ntwo\r\n")
    await edit.output(**_hunk("a.txt", "one", "one\nhalf"))

    assert (root / "a.txt").read_bytes() == b"one\r\nhalf\r\ntwo\r\n"


async def test_line_ends_are_kept(edit: Bench, root: Path) -> None:
    file = root / "dos.txt"
    file.write_bytes(b"one\r\ntwo\r\nthree\r\n")

    await edit.output(path="dos.txt", old_text="one\ntwo\n", new_text="1\n2\n")

    assert file.read_bytes() == b"1\r\n2\r\nthree\r\n"


@pytest.mark.parametrize(
    ("content", "fields", "word"),
    [
        (b"abc", {"old_text": "x", "new_text": ""}, "was not found"),
        (b"abc", {"old_text": "", "new_text": "x"}, "must not be empty"),
        (b"a\xff", {"old_text": "a", "new_text": "b"}, "not a UTF-8 text file"),
        (b"a" * (MAX_EDIT_BYTES + 1), {"old_text": "a", "new_text": "b"}, "larger than 4194304 bytes"),
        (b"a" * MAX_EDIT_BYTES, {"old_text": "a", "new_text": "bb"}, "would become larger"),
        (b"a" * 5000, {"old_text": "a", "new_text": "b" * 1000, "replace_all": True}, "would become larger"),
        (b"abc", {"old_text": "a", "new_text": "b", "expected_sha256": "beef"}, "not the expected one"),
    ],
)
async def test_an_edit_that_cannot_be_made_leaves_the_file_untouched(
    edit: Bench, root: Path, content: bytes, fields: JsonObject, word: str
) -> None:
    file = root / "a.txt"
    file.write_bytes(content)

    assert word in await edit.error(path="a.txt", **fields)
    assert file.read_bytes() == content


async def test_only_existing_files_are_edited(edit: Bench, root: Path) -> None:
    assert await edit.error(path="no/a.txt", old_text="a", new_text="b") == "no such file: no/a.txt"
    assert os.listdir(root) == []


# apply_patch


async def test_a_patch_applies_hunks_in_order_on_the_running_text(patch: Bench, root: Path) -> None:
    (root / "sub").mkdir()
    (root / "sub/b.txt").write_text("x x")
    (root / "a.txt").write_text("one")

    outcome = await patch.run(
        hunks=[
            _hunk("sub/b.txt", "x", "y", replace_all=True),
            _hunk("a.txt", "one", "two"),
            _hunk("./a.txt", "two", "three", expected_sha256=_sha256(b"one")),
        ]
    )

    files: list[JsonObject] = [
        {"path": "a.txt", "hunks": 2, "replacements": 2, "bytes_written": 5, "sha256": _sha256(b"three")},
        {"path": "sub/b.txt", "hunks": 1, "replacements": 2, "bytes_written": 3, "sha256": _sha256(b"y y")},
    ]
    assert outcome.output == {"changed_files": files, "file_count": 2}
    assert [update["path"] for update in outcome.context_updates] == ["a.txt", "sub/b.txt"]
    assert ((root / "a.txt").read_text(), (root / "sub/b.txt").read_text()) == ("three", "y y")
    assert _files(root) == ["a.txt", "sub/b.txt"]


@pytest.mark.parametrize(
    ("hunks", "word"),
    [
        ([], "at least one hunk"),
        ([_hunk("a.txt", "one", "1"), _hunk("b.txt", "none", "x")], "hunks[1]: `old_text` was not found: b.txt"),
        ([_hunk("a.txt", "one", "1"), _hunk("b.txt", "", "x")], "hunks[1]: `old_text` must not be empty"),
        ([_hunk("a.txt", "one", "1"), _hunk("new.txt", "a", "x")], "hunks[1]: no such file: new.txt"),
        ([_hunk("a.txt", "one", "1"), _hunk("../b.txt", "a", "x")], "hunks[1]: the path is outside the workspace"),
        ([_hunk("a.txt", "one", "1", expected_sha256="0")], "not the expected one"),
        (
            [
                _hunk("a.txt", "one", "1", expected_sha256=_sha256(b"one")),
                _hunk("a.txt", "1", "2", expected_sha256=_sha256(b"1")),
            ],
            "different expected_sha256",
        ),
    ],
)
async def test_a_patch_with_one_bad_hunk_changes_nothing(
    patch: Bench, root: Path, hunks: list[JsonValue], word: str
) -> None:
    (root / "a.txt").write_text("one")
    (root / "b.txt").write_text("two")

    assert word in await patch.error(hunks=hunks)
    assert ((root / "a.txt").read_text(), (root / "b.txt").read_text()) == ("one", "two")
    assert _files(root) == ["a.txt", "b.txt"]


@contextmanager
def _files_at_most(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_a_patch_whose_last_file_cannot_be_written_is_rolled_back(patch: Bench, root: Path) -> None:
    (root / "a.txt").write_text("one")
    (root / "a.txt").chmod(0o640)
    (root / "b.txt").write_text("x" * 2_000_000)

    with _files_at_most(1_000_000):
        error = await patch.error(hunks=[_hunk("a.txt", "one", "1"), _hunk("b.txt", "x", "y")])

    assert error == "file too large: b.txt"
    assert (root / "a.txt").read_text() == "one"
    assert stat.S_IMODE((root / "a.txt").stat().st_mode) == 0o640
    assert (root / "b.txt").read_text() == "x" * 2_000_000
    assert _files(root) == ["a.txt", "b.txt"]


# One writer at a time


async def test_edits_of_one_file_at_the_same_time_are_all_kept(edit: Bench, root: Path) -> None:
    names = [f"<{number}>" for number in range(20)]
    (root / "a.txt").write_text("".join(names))

    async with asyncio.TaskGroup() as group:
        for name in names:
            group.create_task(edit.output(path="a.txt", old_text=name, new_text=name.upper() + "!"))

    assert (root / "a.txt").read_text() == "".join(f"{name}!" for name in names)


@contextmanager
def _folder_locked(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


async def test_a_write_waits_for_another_process_and_can_be_cancelled_while_it_does(write: Bench, root: Path) -> None:
    (root / "a.txt").write_text("old")
    with _folder_locked(root):
        async with asyncio.timeout(5):
            task = asyncio.create_task(write.run(path="a.txt", content="new"))
            done, _ = await asyncio.wait((task,), timeout=0.1)
            assert not done
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert (root / "a.txt").read_text() == "old"

    await write.output(path="a.txt", content="newer")
    assert (root / "a.txt").read_text() == "newer"
    assert _files(root) == ["a.txt"]


async def test_a_cancelled_write_happened_whole_or_not_at_all(write: Bench, root: Path) -> None:
    old, new = "o" * 1_000_000, "n" * 1_000_000
    for turns in range(12):
        (root / "a.txt").write_text(old)
        task = asyncio.create_task(write.run(path="a.txt", content=new))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait((task,))

        after = (root / "a.txt").read_text()
        assert after in (old, new)
        assert _files(root) == ["a.txt"]


# After a restart


async def _settled(bench: Bench, happening: Callable[[], object], **fields: JsonValue) -> ToolOutcome | None:
    """Prepare a call, let something happen instead of `run`, and ask what became of the call."""
    call = bench.call(**fields)
    prepared = await bench.tool.prepare(call, bench.context)
    happening()
    return await bench.tool.settle(call, prepared.facts, bench.context)


async def test_a_write_in_doubt_that_took_place_gives_its_normal_outcome(write: Bench, root: Path) -> None:
    settled = await _settled(write, lambda: (root / "a.txt").write_text("new"), path="a.txt", content="new")

    assert settled == await write.run(path="a.txt", content="new")


async def test_an_edit_and_a_patch_in_doubt_that_took_place_give_their_normal_outcome(
    edit: Bench, patch: Bench, root: Path
) -> None:
    file = root / "a.txt"
    for tool, fields in (
        (edit, _hunk("a.txt", "x", "y")),
        (patch, cast("JsonObject", {"hunks": [_hunk("a.txt", "x", "y")]})),
    ):
        file.write_text("x x")
        settled = await _settled(tool, lambda: file.write_text("y x"), **fields)
        file.write_text("x x")
        assert settled == await tool.run(**fields)


@pytest.mark.parametrize("before", [None, "old"])
async def test_a_write_in_doubt_that_never_began_says_that_it_may_be_repeated(
    write: Bench, root: Path, before: str | None
) -> None:
    if before is not None:
        (root / "a.txt").write_text(before)

    settled = await _settled(write, lambda: None, path="a.txt", content="new")

    assert settled == ToolOutcome(
        output={"error": NOT_WRITTEN, "tool": "write_file", "reason": "daemon_restart"}, is_error=True
    )


async def test_a_write_in_doubt_over_a_file_that_is_neither_stays_in_doubt(write: Bench, root: Path) -> None:
    (root / "a.txt").write_text("old")

    assert await _settled(write, lambda: (root / "a.txt").write_text("else"), path="a.txt", content="new") is None
    assert await _settled(write, lambda: (root / "a.txt").unlink(), path="a.txt", content="new") is None
    assert await _settled(write, lambda: (root / "a.txt").mkdir(), path="a.txt", content="new") is None


async def test_a_patch_in_doubt_that_is_half_done_stays_in_doubt(patch: Bench, root: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (root / name).write_text("x")
    hunks: list[JsonValue] = [_hunk("a.txt", "x", "y"), _hunk("b.txt", "x", "y")]

    assert await _settled(patch, lambda: (root / "a.txt").write_text("y"), hunks=hunks) is None


async def test_a_call_in_doubt_that_would_have_failed_has_changed_nothing(edit: Bench, root: Path) -> None:
    settled = await _settled(edit, lambda: None, path="a.txt", old_text="x", new_text="y")

    assert settled is not None
    assert settled.is_error
    assert NOT_WRITTEN in str(settled.output)


async def test_settling_clears_away_the_temporary_file_of_a_crash(write: Bench, root: Path) -> None:
    (root / "sub").mkdir()
    call = write.call(path="sub/a.txt", content="new")
    prepared = await write.tool.prepare(call, write.context)
    (root / "sub" / str(prepared.facts["temporary"])).write_text("half of n")

    settled = await write.tool.settle(call, prepared.facts, write.context)

    assert settled is not None
    assert NOT_WRITTEN in str(settled.output)
    assert _files(root) == []


async def test_preparing_changes_nothing(write: Bench, root: Path) -> None:
    prepared = await write.tool.prepare(write.call(path="a/b.txt", content="x"), write.context)
    await prepared.abandon()

    assert prepared.facts["files"] == [{"path": "a/b.txt", "before": None, "after": _sha256(b"x")}]
    assert os.listdir(root) == []
