from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from kheish.core.jsonvalue import JsonObject
from kheish.tools.files_read import MAX_READ_BYTES, ReadFile
from kheish.tools.protocol import Tool
from tests.tools.conftest import Bench

pytestmark = pytest.mark.anyio


@pytest.fixture
def read(bench: Callable[[Tool], Bench]) -> Bench:
    return bench(ReadFile())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def test_read_file_returns_the_content_and_what_is_known_of_it(read: Bench, root: Path) -> None:
    (root / "a.txt").write_bytes(b"one\r\ntwo\nthree")

    outcome = await read.run(path="a.txt")

    assert outcome.output == {
        "path": str(root / "a.txt"),
        "start_line": 1,
        "line_count": 3,
        "content": "one\r\ntwo\nthree",
        "bytes_read": 14,
        "sha256": _sha256(b"one\r\ntwo\nthree"),
        "encoding": "utf-8",
        "binary": False,
        "truncated": False,
    }
    assert outcome.context_updates == ({"type": "file_read", "path": "a.txt"},)


async def test_a_window_of_lines_keeps_the_digest_of_the_whole_small_file(read: Bench, root: Path) -> None:
    (root / "a.txt").write_bytes(b"1\n2\n3\n4\n")

    output = await read.output(path="a.txt", start_line=2, line_count=2.0)

    assert (output["start_line"], output["line_count"], output["content"]) == (2, 2, "2\n3\n")
    assert (output["bytes_read"], output["sha256"]) == (8, _sha256(b"1\n2\n3\n4\n"))


async def test_the_last_newline_is_kept_and_makes_no_line_of_its_own(read: Bench, root: Path) -> None:
    (root / "a.txt").write_bytes(b"1\n\n")
    (root / "empty.txt").touch()

    assert (await read.output(path="a.txt"))["line_count"] == 2
    assert (await read.output(path="a.txt"))["content"] == "1\n\n"
    assert (await read.output(path="empty.txt"))["line_count"] == 0


async def test_lines_past_the_end_are_none(read: Bench, root: Path) -> None:
    (root / "a.txt").write_bytes(b"1\n")

    output = await read.output(path="a.txt", start_line=9)

    assert (output["start_line"], output["line_count"], output["content"]) == (9, 0, "")


async def test_a_large_file_is_cut_at_the_limit_and_says_so(read: Bench, root: Path) -> None:
    data = b"x" * 300_000
    (root / "big.txt").write_bytes(data)

    output = await read.output(path="big.txt")

    assert (output["bytes_read"], output["truncated"]) == (131_072, True)
    assert output["sha256"] == _sha256(data[:131_072])


async def test_a_large_file_is_read_on_from_a_line_beyond_the_limit(read: Bench, root: Path) -> None:
    lines = [f"line {number}\n".encode() for number in range(1, 40_001)]
    (root / "big.txt").write_bytes(b"".join(lines))

    output = await read.output(path="big.txt", start_line=30_000, line_count=2)
    rest = await read.output(path="big.txt", start_line=39_999)
    past = await read.output(path="big.txt", start_line=50_000)

    assert (output["content"], output["truncated"]) == ("line 30000\nline 30001\n", False)
    assert (rest["content"], rest["bytes_read"], rest["truncated"]) == ("line 39999\nline 40000\n", 22, False)
    assert (past["content"], past["line_count"]) == ("", 0)


@pytest.mark.parametrize("extra", [-1, 0, 1])
async def test_truncated_is_exact_at_the_limit(read: Bench, root: Path, extra: int) -> None:
    (root / "edge.txt").write_bytes(b"x" * (MAX_READ_BYTES + extra))

    assert (await read.output(path="edge.txt"))["truncated"] is (extra > 0)


async def test_a_character_cut_by_the_limit_does_not_make_a_file_binary(read: Bench, root: Path) -> None:
    (root / "wide.txt").write_text("x" + "é" * MAX_READ_BYTES)

    output = await read.output(path="wide.txt")

    assert (output["encoding"], output["bytes_read"]) == ("utf-8", MAX_READ_BYTES)
    assert output["content"] == "x" + "é" * ((MAX_READ_BYTES - 1) // 2)


async def test_a_binary_file_has_no_text_and_gives_base64_only_on_request(read: Bench, root: Path) -> None:
    data = b"\x89PNG\xff\n\x00"
    (root / "a.png").write_bytes(data)

    plain = await read.output(path="a.png")
    full = await read.output(path="a.png", include_base64=True)

    assert (plain["encoding"], plain["binary"], plain["content"], plain["line_count"]) == ("binary", True, "", 0)
    assert "content_base64" not in plain
    assert base64.b64decode(str(full["content_base64"])) == data


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"path": "."}, "is a directory: ."),
        ({"path": "folder"}, "is a directory: folder"),
        ({"path": "none.txt"}, "no such file or directory: none.txt"),
        ({"path": "a.txt/b"}, "not a directory: a.txt"),
        ({"path": "a.txt", "start_line": 0}, "`start_line` must be a whole number of at least 1"),
        ({"path": "a.txt", "line_count": 1.5}, "`line_count` must be a whole number of at least 1"),
        ({"path": "a.txt", "lines": 1}, "invalid input: unknown field `lines`"),
        ({"path": 1}, "invalid input: path: expected a string, got a number"),
        ({}, "invalid input: missing required field `path`"),
    ],
)
async def test_a_read_that_makes_no_sense_says_why(read: Bench, root: Path, fields: JsonObject, message: str) -> None:
    (root / "folder").mkdir()
    (root / "a.txt").touch()

    assert await read.error(**fields) == message


@pytest.mark.parametrize("path", ["../../etc/passwd", "{outside}", "link"])
async def test_reading_outside_is_refused_and_leaks_nothing(read: Bench, root: Path, path: str) -> None:
    outside = root.parent / "secret.txt"
    outside.write_text("hunter2")
    (root / "link").symlink_to(outside)

    outcome = await read.run(path=path.format(outside=outside))

    assert outcome.is_error
    assert "outside the workspace" in str(outcome.output)
    assert "hunter2" not in str(outcome.output)
