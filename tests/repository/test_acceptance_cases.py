"""Every case of the access and secrets contract that this daemon promises names itself in the test that shows it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]
PROMISED = {*range(1, 14), 21}
"""Of auth-and-secrets. 14 to 20 are the broker's and the audit trail's, 22 needs connectors."""
_NAMED = re.compile(r"auth-and-secrets cases? ([\d, and]+)")


def _cases() -> Iterator[tuple[int, str]]:
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                for numbers in _NAMED.findall(ast.get_docstring(node) or ""):
                    yield from ((int(number), node.name) for number in re.findall(r"\d+", numbers))


def test_every_promised_case_is_shown_by_a_test_that_names_it() -> None:
    shown = {number for number, _ in _cases()}

    assert shown >= PROMISED, f"nothing shows the cases {sorted(PROMISED - shown)}"
