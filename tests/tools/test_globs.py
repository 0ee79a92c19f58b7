from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheish.tools.globs import BadGlob, PathGlob


def _matches(pattern: str, path: str) -> bool:
    return PathGlob(pattern).matches(path.split("/"))


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("*.py", ["a.py", "x/y/a.py", ".py"], ["a.pyc", "a.py/b"]),
        ("/*.py", ["a.py"], ["x/a.py"]),
        ("src/*.py", ["src/a.py"], ["src/x/a.py", "x/src/a.py"]),
        ("src/**/*.py", ["src/a.py", "src/x/y/a.py"], ["a.py", "x/src/a.py"]),
        ("**/test", ["test", "a/b/test"], ["a/test/b"]),
        ("src/**", ["src/a", "src/a/b"], ["src", "a/src/b"]),
        ("**", ["a", "a/b"], []),
        ("a/**/b/**/c", ["a/b/c", "a/x/b/y/z/c"], ["a/c/b"]),
        ("a**b", ["ab", "axxb", "q/axb"], ["a/b"]),
        ("?.txt", ["a.txt", "é.txt"], [".txt", "ab.txt"]),
        ("[a-c]x", ["ax", "cx"], ["dx", "-x"]),
        ("[!a-c]x", ["dx"], ["ax", "x"]),
        ("[^]]x", ["ax"], ["]x"]),
        ("[]a-]x", ["]x", "-x", "ax"], ["bx"]),
        ("*.{py,md}", ["a.py", "x/b.md"], ["a.rs"]),
        ("{src,lib/{a,b}}/*", ["src/x", "lib/a/x", "lib/b/x"], ["lib/x", "lib/c/x"]),
        (r"\*.py", ["*.py"], ["a.py"]),
        (r"\{a\}", ["{a}"], ["a"]),
        ("a.b", ["a.b"], ["axb"]),
        ("*a*b*c", ["xaxbxc", "abc"], ["acb"]),
    ],
)
def test_a_glob_matches_like_an_ignore_rule(pattern: str, yes: list[str], no: list[str]) -> None:
    assert [path for path in yes if not _matches(pattern, path)] == []
    assert [path for path in no if _matches(pattern, path)] == []


@pytest.mark.parametrize("pattern", ["[a", "a[!", "[z-a]", "{a,b", "a}", "x\\", "{a,b}" * 9])
def test_a_glob_that_cannot_be_read_says_so(pattern: str) -> None:
    with pytest.raises(BadGlob, match=r"\w"):
        PathGlob(pattern)


def test_many_stars_take_no_long_time() -> None:
    assert not _matches("*a" * 40 + "b", "a" * 250)
    assert not _matches("**/" * 40 + "b", "a/" * 200 + "c")


@given(pattern=st.text(alphabet="ab*?[]{}!,-/\\", max_size=12), path=st.text(alphabet="ab/", min_size=1, max_size=12))
def test_any_pattern_is_compiled_or_refused(pattern: str, path: str) -> None:
    with suppress(BadGlob):
        _matches(pattern, path)


@given(path=st.lists(st.text(alphabet="ab*?[]{}\\ ", min_size=1, max_size=4), min_size=1, max_size=4))
def test_an_escaped_path_matches_itself(path: list[str]) -> None:
    escaped = "/".join("".join(f"\\{char}" for char in name) for name in path)

    assert PathGlob("/" + escaped).matches(path)
