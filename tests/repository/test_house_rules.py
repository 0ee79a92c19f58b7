from __future__ import annotations

from pathlib import Path

import pytest

from tools.house_rules import FUNCTION_LINES, MODULE_LINES, faults


def _broken(root: Path, name: str, text: str) -> list[str]:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return [fault.removeprefix(str(path)) for fault in faults(path)]


def _function(lines: int) -> str:
    return "def work():\n" + "    pass\n" * (lines - 1)


def test_a_function_at_the_limit_passes_and_one_line_more_does_not(tmp_path: Path) -> None:
    assert _broken(tmp_path, "fits.py", _function(FUNCTION_LINES)) == []
    assert _broken(tmp_path, "long.py", _function(FUNCTION_LINES + 1)) == [":1: work has 51 lines (limit 50)"]


def test_a_module_at_the_limit_passes_and_one_line_more_does_not(tmp_path: Path) -> None:
    assert _broken(tmp_path, "fits.py", "pass\n" * MODULE_LINES) == []
    assert _broken(tmp_path, "long.py", "pass\n" * (MODULE_LINES + 1)) == [": 501 lines (limit 500)"]


def test_a_vague_module_name_and_a_filled_package_file_are_refused(tmp_path: Path) -> None:
    assert _broken(tmp_path, "utils.py", "") == [": name the module after what it holds"]
    assert _broken(tmp_path, "__init__.py", "x = 1\n") == [": package files stay empty"]


@pytest.mark.parametrize("caught", ["Exception", "BaseException", "(ValueError, Exception)", ""])
def test_a_broad_except_must_name_its_boundary(tmp_path: Path, caught: str) -> None:
    handler = f"try:\n    pass\nexcept {caught}:\n    pass\n".replace(" :", ":")
    explained = handler.replace("except", "# tool code is not ours\nexcept")

    assert _broken(tmp_path, "bare.py", handler) == [":3: a broad except names its boundary in a comment"]
    assert _broken(tmp_path, "explained.py", explained) == []


def test_a_broad_except_that_raises_again_needs_no_comment(tmp_path: Path) -> None:
    assert _broken(tmp_path, "again.py", "try:\n    pass\nexcept BaseException:\n    print()\n    raise\n") == []


@pytest.mark.parametrize(
    "line", ["from kheish.runs.store import RunRows", "from kheish.runs import store", "import kheish.runs.store"]
)
def test_only_the_composition_root_may_reach_another_rooms_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _broken(Path("src/kheish/sessions"), "service.py", line) == [":1: kheish.runs.store belongs to another room"]
    assert _broken(Path("src/kheish/runs"), "service.py", line) == []
    assert _broken(Path("src/kheish/daemon"), "composition.py", line) == []
