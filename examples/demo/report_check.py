"""Compares REPORT.md with the files it was made from."""

from __future__ import annotations

from pathlib import Path

_MADE_LATER = {"REPORT.md", "build.log"}


def check_report(workspace: Path) -> list[str]:
    """Return what is wrong with the report; empty when it is true."""
    path = workspace / "REPORT.md"
    if not path.is_file():
        return ["REPORT.md was not written"]
    report = path.read_text()
    problems = []
    for file in sorted(workspace.iterdir()):
        if file.name in _MADE_LATER or not file.is_file():
            continue
        if file.name not in report:
            problems.append(f"{file.name} is not mentioned")
        lines = file.read_text().count("\n")
        if not any(line.split() == [str(lines), file.name] for line in report.splitlines()):
            problems.append(f"the line count of {file.name} ({lines}) is missing or wrong")
    heading = (workspace / "README.md").read_text().splitlines()[0]
    if heading not in report:
        problems.append("the README is not quoted")
    if "OK" not in report:
        problems.append("the result of the tests is missing")
    return problems
