from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kheish.core.jsonvalue import JsonObject
from kheish.tools.confinement import Workspace
from kheish.tools.limits import ToolRuntimeLimits
from kheish.tools.offload import Stop
from kheish.tools.protocol import Tool, ToolContext
from kheish.tools.search import GlobSearch, GrepSearch, ListFiles
from kheish.tools.search_engine import PythonSearch, Ripgrep, SearchEngine, search_engine
from tests.tools.conftest import Bench

pytestmark = pytest.mark.anyio

Benches = Callable[[Tool], Bench]
RIPGREP = shutil.which("rg")


@pytest.fixture(params=["ripgrep", "python"])
def engine(request: pytest.FixtureRequest) -> SearchEngine:
    if request.param == "python":
        return PythonSearch()
    if RIPGREP is None:
        pytest.skip("ripgrep is not installed")
    return Ripgrep(RIPGREP)


def _tree(root: Path, files: dict[str, str | bytes]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


PROJECT: dict[str, str | bytes] = {
    "README.md": "alpha\nbeta\n",
    "a.txt": "",
    "a/z.txt": "alpha",
    "a-b.txt": "",
    "src/main.py": "def main():\n    return 'beta'\n",
    "src/deep/tool.py": "x = 1\r\nalpha = 2\r\n",
    "src/é.py": "été\n",
    ".hidden": "alpha",
    ".config/x.txt": "alpha",
}


async def test_files_are_listed_folder_by_folder_in_order(engine: SearchEngine, bench: Benches, root: Path) -> None:
    _tree(root, PROJECT)

    assert await bench(ListFiles(engine)).output() == {
        "base": ".",
        "paths": ["README.md", "a/z.txt", "a-b.txt", "a.txt", "src/deep/tool.py", "src/main.py", "src/é.py"],
        "truncated": False,
    }
    below = await bench(ListFiles(engine)).output(base="src")
    assert below == {"base": "src", "paths": ["deep/tool.py", "main.py", "é.py"], "truncated": False}


IGNORED: list[tuple[str, dict[str, str | bytes], str, list[str]]] = [
    ("a rule holds at any depth", {".gitignore": "*.log\n", "a.log": "", "x/b.log": "", "x/c": ""}, ".", ["x/c"]),
    ("an anchored rule holds in its folder", {".gitignore": "/a", "a": "", "x/a": ""}, ".", ["x/a"]),
    ("a nested file rules its folder", {"x/.gitignore": "a", "a": "", "x/a": "", "x/y/a": ""}, ".", ["a"]),
    (
        "a nested file may bring back",
        {".gitignore": "*.a", "x/.gitignore": "!k.a", "k.a": "", "x/k.a": ""},
        ".",
        ["x/k.a"],
    ),
    ("the last rule wins", {".gitignore": "*.a\n!k.a\n", "k.a": "", "l.a": ""}, ".", ["k.a"]),
    ("nothing comes back from a left-out folder", {".gitignore": "x/\n!x/a", "x/a": "", "b": ""}, ".", ["b"]),
    ("a rule for folders spares files", {".gitignore": "x/", "x": "", "y/x/a": ""}, ".", ["x"]),
    (".ignore is stronger than .gitignore", {".gitignore": "a", ".ignore": "!a", "a": "", "b": ""}, ".", ["a", "b"]),
    (".rgignore is stronger than .ignore", {".ignore": "!a", ".rgignore": "a", "a": "", "b": ""}, ".", ["b"]),
    ("a kept hidden file is seen", {".gitignore": "!.env", ".env": "", ".other": ""}, ".", [".env"]),
    (
        "comments, blanks and escapes",
        {".gitignore": "# c\n\n\\#d\ne  \n\\!f\r\n", "#d": "", "e": "", "!f": "", "c": ""},
        ".",
        ["c"],
    ),
    ("a broken rule is passed over", {".gitignore": "[a\nb\n", "a": "", "b": ""}, ".", ["a"]),
    ("double stars", {".gitignore": "x/**/a\ny/**\n", "x/a": "", "x/z/a": "", "y/b": "", "a": ""}, ".", ["a"]),
    ("rules above the base hold", {".gitignore": "*.log\n/s/b\n", "s/a.log": "", "s/b": "", "s/c": ""}, "s", ["c"]),
    ("folders above hold for folders below", {".gitignore": "t/", "s/t/a": "", "s/b": ""}, "s", ["b"]),
    ("a left-out folder can be searched by name", {".gitignore": "s/", "s/a": "", "s/b/c": ""}, "s", ["a", "b/c"]),
    ("a hidden folder can be searched by name", {".s/a": "", ".s/.b": ""}, ".s", ["a"]),
    (
        "an inner repository is on its own",
        {".gitignore": "a", "r/.git/HEAD": "", "r/a": "", "r/b": ""},
        ".",
        ["r/a", "r/b"],
    ),
    ("the outer repository is obeyed", {".git/HEAD": "", ".gitignore": "a", "r/a": "", "r/b": ""}, ".", ["r/b"]),
    (
        "rules above the workspace do not count",
        {"../.ignore": "a", "../.gitignore": "b", "a": "", "b": ""},
        ".",
        ["a", "b"],
    ),
]


@pytest.mark.parametrize(
    ("files", "base", "expected"), [case[1:] for case in IGNORED], ids=[case[0] for case in IGNORED]
)
async def test_ignore_files_are_honoured(
    engine: SearchEngine, bench: Benches, root: Path, files: dict[str, str | bytes], base: str, expected: list[str]
) -> None:
    _tree(root, files)

    assert (await bench(ListFiles(engine)).output(base=base))["paths"] == expected


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.py", ["src/deep/tool.py", "src/main.py", "src/é.py"]),
        ("src/*.py", ["src/main.py", "src/é.py"]),
        ("./src/*.py", ["src/main.py", "src/é.py"]),
        ("**/tool.*", ["src/deep/tool.py"]),
        ("{README,a}.{md,txt}", ["README.md", "a.txt"]),
        ("?/z*", ["a/z.txt"]),
        ("nothing", []),
    ],
)
async def test_files_are_found_by_glob(
    engine: SearchEngine, bench: Benches, root: Path, pattern: str, expected: list[str]
) -> None:
    _tree(root, PROJECT)

    output = await bench(GlobSearch(engine)).output(pattern=pattern)

    assert output == {"base": ".", "pattern": pattern, "paths": expected, "truncated": False}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("alpha", [("README.md", 1, "alpha"), ("a/z.txt", 1, "alpha"), ("src/deep/tool.py", 2, "alpha = 2")]),
        ("^(alpha|beta)$", [("README.md", 1, "alpha"), ("README.md", 2, "beta"), ("a/z.txt", 1, "alpha")]),
        ("2$", [("src/deep/tool.py", 2, "alpha = 2")]),
        (r"\w+\(\):", [("src/main.py", 1, "def main():")]),
        ("(?i)ÉTÉ", [("src/é.py", 1, "été")]),
        ("-x|--", []),
        ("[^\\n]=", [("src/deep/tool.py", 1, "x = 1"), ("src/deep/tool.py", 2, "alpha = 2")]),
        ("nothing", []),
    ],
)
async def test_lines_are_found_by_regular_expression(
    engine: SearchEngine, bench: Benches, root: Path, pattern: str, expected: list[tuple[str, int, str]]
) -> None:
    _tree(root, PROJECT)

    output = await bench(GrepSearch(engine)).output(pattern=pattern)

    matches: list[JsonObject] = [{"path": path, "line": line, "text": text} for path, line, text in expected]
    assert output == {"base": ".", "pattern": pattern, "matches": matches, "truncated": False}


async def test_binary_files_are_not_searched(engine: SearchEngine, bench: Benches, root: Path) -> None:
    late = b"needle\n" + b"x\n" * 100_000 + b"\0"
    _tree(root, {"early.bin": b"\0needle", "late.bin": late, "latin.txt": b"needle \xe9\n", "text": "needle"})

    found = cast("list[JsonObject]", (await bench(GrepSearch(engine)).output(pattern="needle"))["matches"])

    assert found == [
        {"path": "latin.txt", "line": 1, "text": "needle \ufffd"},
        {"path": "text", "line": 1, "text": "needle"},
    ]


@pytest.mark.parametrize("pattern", ["(", "[a", "a{2,1}", "*", "a\nb", r"a\nb"])
async def test_an_invalid_regular_expression_is_an_error(
    engine: SearchEngine, bench: Benches, root: Path, pattern: str
) -> None:
    assert (await bench(GrepSearch(engine)).error(pattern=pattern)).startswith("invalid regular expression: ")


async def test_results_are_capped_and_say_that_they_were_cut(engine: SearchEngine, bench: Benches, root: Path) -> None:
    _tree(root, {f"f{number:03}.txt": "hit\nhit\n" for number in range(201)})

    for tool, name, fields in (
        (ListFiles(engine), "paths", {}),
        (GlobSearch(engine), "paths", {"pattern": "*.txt"}),
        (GrepSearch(engine), "matches", {"pattern": "hit"}),
    ):
        for limit, count in ((3, 3), (200, 200), (1000, 200)):
            output = await bench(tool).output(limit=limit, **cast("JsonObject", fields))
            assert (len(cast("list[object]", output[name])), output["truncated"]) == (count, True)
    exact = await bench(GrepSearch(engine)).output(pattern="hit", base=".", limit=2.0)
    assert (exact["matches"], exact["truncated"]) == (
        [{"path": "f000.txt", "line": line, "text": "hit"} for line in (1, 2)],
        True,
    )


async def test_exactly_as_many_results_as_the_limit_are_not_cut(
    engine: SearchEngine, bench: Benches, root: Path
) -> None:
    _tree(root, {f"{number}.txt": "" for number in range(5)})

    assert (await bench(ListFiles(engine)).output(limit=5))["truncated"] is False


async def test_a_very_long_line_is_cut(engine: SearchEngine, bench: Benches, root: Path) -> None:
    _tree(root, {"min.js": "x" * 100_000})

    output = await bench(GrepSearch(engine)).output(pattern="x$")

    assert output["matches"] == [{"path": "min.js", "line": 1, "text": "x" * 500, "text_truncated": True}]


async def test_links_are_neither_listed_nor_followed(engine: SearchEngine, bench: Benches, root: Path) -> None:
    _tree(root, {"../secret/s.txt": "needle", "in/a.txt": "needle"})
    (root / "out").symlink_to(root.parent / "secret")
    (root / "file").symlink_to(root.parent / "secret" / "s.txt")
    (root / "alias").symlink_to("in")
    os.mkfifo(root / "pipe")

    assert (await bench(ListFiles(engine)).output())["paths"] == ["in/a.txt"]
    assert len(cast("list[object]", (await bench(GrepSearch(engine)).output(pattern="needle"))["matches"])) == 1
    assert await bench(ListFiles(engine)).output(base="alias") == {"base": "in", "paths": ["a.txt"], "truncated": False}


@pytest.mark.parametrize("base", ["..", "/etc", "out", "in/../.."])
async def test_a_base_outside_is_refused(engine: SearchEngine, bench: Benches, root: Path, base: str) -> None:
    (root / "out").symlink_to(root.parent)

    assert "outside the workspace" in await bench(ListFiles(engine)).error(base=base)


async def test_the_state_root_is_never_searched(engine: SearchEngine, context: ToolContext, root: Path) -> None:
    _tree(root, {"state/log.txt": "needle", "work/a.txt": "needle"})
    outside = ToolContext(session_id="demo", run_id="run-1", workspace_root=root, forbidden_roots=(root / "state",))

    found = (await Bench(GrepSearch(engine), outside).output(pattern="needle"))["matches"]

    assert found == [{"path": "work/a.txt", "line": 1, "text": "needle"}]
    assert (await Bench(ListFiles(engine), outside).output())["paths"] == ["work/a.txt"]
    assert "outside the workspace" in await Bench(ListFiles(engine), outside).error(base="state")


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("none", "no such file or directory: none"),
        ("a.txt", "not a directory: a.txt"),
        ("a.txt/b", "not a directory: a.txt"),
    ],
)
async def test_a_base_that_is_no_folder_is_an_error(
    engine: SearchEngine, bench: Benches, root: Path, base: str, message: str
) -> None:
    (root / "a.txt").touch()

    assert await bench(ListFiles(engine)).error(base=base) == message
    assert await bench(GrepSearch(engine)).error(base=base, pattern="x") == message


@pytest.mark.parametrize("limit", [0, -1, 1.5])
async def test_a_limit_is_a_positive_whole_number(bench: Benches, limit: float) -> None:
    assert "`limit` must be a whole number" in await bench(ListFiles(PythonSearch())).error(limit=limit)


async def test_a_pattern_that_cannot_be_used_is_an_error(bench: Benches) -> None:
    for pattern in ("", "a\0", "x" * 5000):
        for tool in (GlobSearch(PythonSearch()), GrepSearch(PythonSearch())):
            assert "`pattern` must hold" in await bench(tool).error(pattern=pattern)
    assert (
        await bench(GlobSearch(PythonSearch())).error(pattern="[a") == "invalid glob: a character class is not closed"
    )


async def test_names_that_are_not_utf8_do_no_harm(engine: SearchEngine, bench: Benches, root: Path) -> None:
    _tree(root, {os.fsdecode(b"\xff.txt"): "needle"})

    assert (await bench(ListFiles(engine)).output())["paths"] == ["\ufffd.txt"]
    assert (await bench(GrepSearch(engine)).output(pattern="needle"))["matches"] == [
        {"path": "\ufffd.txt", "line": 1, "text": "needle"}
    ]


async def test_a_search_that_takes_too_long_is_stopped_and_leaves_no_process(bench: Benches, root: Path) -> None:
    """Python's engine needs ages for this pattern; only a killed process ends in time."""
    _tree(root, {"a.txt": "a" * 40 + "b"})
    grep = bench(GrepSearch(PythonSearch()))
    grep.limits = ToolRuntimeLimits(max_timeout_ms=1000)

    assert await grep.error(pattern="(a+)+$") == "grep_search timed out after 1000 ms"
    assert _children() == []


def _children() -> list[str]:
    """Ids of this process's children, whichever thread started them."""
    lists = Path("/proc/self/task").glob("*/children")
    return [child for listed in lists for child in listed.read_text().split()]


async def test_searching_sees_nothing_of_the_daemons_environment(
    engine: SearchEngine, bench: Benches, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = root.parent / "config"
    config.write_text("--hidden\n")
    monkeypatch.setenv("RIPGREP_CONFIG_PATH", str(config))
    monkeypatch.setenv("PYTHONPATH", str(root))
    _tree(root, {".hidden": "", "json.py": "raise SystemExit(7)", "kheish/__init__.py": "raise SystemExit(8)"})

    assert (await bench(ListFiles(engine)).output())["paths"] == ["json.py", "kheish/__init__.py"]


def test_ripgrep_is_used_when_it_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert isinstance(search_engine(), PythonSearch)

    program = tmp_path / "rg"
    for version, used in (("12.9.9", PythonSearch), ("13.0.0", Ripgrep), ("15.1.0", Ripgrep)):
        program.write_text(f"#!/bin/sh\necho ripgrep {version}\n")
        program.chmod(0o755)
        assert isinstance(search_engine(), used)


TREE = [f"{folder}{name}" for folder in ("", "a/", "a/b/", ".a/", "b/a/") for name in ("f", "g", ".f", "fg")]
ATOMS = st.sampled_from(["a", "b", "f", "g", "*", "**", "f*", "?", "[!f]", ".*", "{f,b}"])
RULE = st.builds(
    lambda keeps, root, names, folder: keeps + root + "/".join(names) + folder,
    st.sampled_from(["", "", "!"]),
    st.sampled_from(["", "", "/"]),
    st.lists(ATOMS, min_size=1, max_size=3),
    st.sampled_from(["", "", "/"]),
)
PLACES = st.sampled_from([".gitignore", ".ignore", ".rgignore", "a/.gitignore", "a/.ignore", "a/b/.gitignore"])
RULES = st.dictionaries(PLACES, st.lists(RULE, min_size=1, max_size=3).map("\n".join), min_size=1, max_size=4)


@pytest.mark.skipif(RIPGREP is None, reason="ripgrep is not installed")
@settings(max_examples=40, deadline=None)
@given(rules=RULES)
def test_both_engines_agree_on_any_ignore_rules(rules: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        _tree(root, {**dict.fromkeys(TREE, ""), **rules})
        workspace = Workspace(root)
        by_ripgrep, by_python = (
            list(engine.files(workspace, workspace.resolve("."), Stop()))
            for engine in (Ripgrep(str(RIPGREP)), PythonSearch())
        )

        assert by_ripgrep == by_python
