"""The rules of the house that no linter knows: sizes, module names, empty package files, explained broad excepts."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

MODULE_LINES = 500
FUNCTION_LINES = 50
VAGUE_NAMES = frozenset({"utils", "util", "helpers", "helper", "common", "misc", "manager"})
BROAD = frozenset({"Exception", "BaseException"})
INIT_WITH_CODE = Path("src/kheish/__init__.py")
"""The only package file that may hold code: it exports the SDK's names."""


def faults(path: Path) -> Iterator[str]:
    """Yield one line for every rule that ``path`` breaks."""
    text = path.read_text(encoding="utf-8")
    source = text.splitlines()
    if len(source) > MODULE_LINES:
        yield f"{path}: {len(source)} lines (limit {MODULE_LINES})"
    if path.stem in VAGUE_NAMES:
        yield f"{path}: name the module after what it holds"
    if path.name == "__init__.py" and path != INIT_WITH_CODE and text.strip():
        yield f"{path}: package files stay empty"
    for node in ast.walk(ast.parse(text, str(path))):
        if isinstance(node, ast.ExceptHandler) and _is_broad(node) and not _explained(node, source):
            yield f"{path}:{node.lineno}: a broad except names its boundary in a comment"
        if isinstance(node, ast.ImportFrom | ast.Import):
            yield from (f"{path}:{node.lineno}: {module} belongs to another room" for module in _foreign(node, path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES:
                yield f"{path}:{node.lineno}: {node.name} has {lines} lines (limit {FUNCTION_LINES})"


def _foreign(node: ast.ImportFrom | ast.Import, path: Path) -> Iterator[str]:
    """Yield another capability's store.py where ``node`` imports one; only the composition root may know them all."""
    room = path.parts[2] if path.parts[:2] == ("src", "kheish") else "daemon"
    parents = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
    names = [] if isinstance(node, ast.Import) else [f"{node.module}.{alias.name}" for alias in node.names]
    for module in {".".join(name.split(".")[:3]) for name in [*parents, *names]}:
        package, _, rest = module.partition(".")
        if package == "kheish" and rest.endswith(".store") and rest != f"{room}.store" and room != "daemon":
            yield module


def _is_broad(handler: ast.ExceptHandler) -> bool:
    """Whether it swallows what it does not know; cleaning up and raising again swallows nothing."""
    last = handler.body[-1]
    if isinstance(last, ast.Raise) and last.exc is None:
        return False
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(kind is None or (isinstance(kind, ast.Name) and kind.id in BROAD) for kind in caught)


def _explained(handler: ast.ExceptHandler, lines: list[str]) -> bool:
    """Whether a comment stands above the except, on its line, or first in its body."""
    return any("#" in line for line in lines[handler.lineno - 2 : handler.body[0].lineno])


def main(folders: list[str]) -> int:
    paths = [path for folder in folders for path in sorted(Path(folder).rglob("*.py"))]
    found = [fault for path in paths for fault in faults(path)]
    print("\n".join(found) or f"{len(paths)} modules keep the house rules")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
