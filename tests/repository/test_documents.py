from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)

each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)


@each_document
def test_every_link_in_the_repository_leads_somewhere(path: Path) -> None:
    targets = [link for link in _LINK.findall(path.read_text()) if not link.startswith("http")]
    missing = [link for link in targets if not _exists(path, link)]
    assert missing == []


@each_document
def test_every_json_toml_and_python_example_parses(path: Path) -> None:
    parsers = {"json": json.loads, "toml": tomllib.loads, "python": lambda code: compile(code, path.name, "exec")}
    for language, block in _FENCE.findall(path.read_text()):
        if language in parsers:
            parsers[language](block)


def test_the_index_links_every_page() -> None:
    linked = set(_LINK.findall((ROOT / "docs" / "index.md").read_text()))
    assert {path.name for path in (ROOT / "docs").glob("*.md")} - linked == {"index.md"}


@each_document
def test_every_test_a_document_names_exists(path: Path) -> None:
    named = set(re.findall(r"`(test_\w+)`", path.read_text()))
    code = "".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py")) if named else ""
    assert {name for name in named if f"def {name}(" not in code} == set()


def _exists(path: Path, link: str) -> bool:
    file, _, anchor = link.partition("#")
    target = (path.parent / file).resolve() if file else path
    return target.exists() and (not anchor or anchor in _anchors(target))


def _anchors(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}
