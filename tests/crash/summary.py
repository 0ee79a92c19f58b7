"""The figures of the laboratory at the end of the output, gathered from every worker."""

from __future__ import annotations

from typing import Any

import pytest

PROPERTY = "crash laboratory"


def summarise(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what each test of the laboratory reported; nothing when none ran."""
    found = [
        (report.nodeid.rpartition("::")[2], figures)
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, figures in getattr(report, "user_properties", ())
        if name == PROPERTY and report.when == "call"
    ]
    if not found:
        return
    terminalreporter.section("crash laboratory")
    for test, figures in sorted(found):
        terminalreporter.line(f"{test}, seed {figures['seed']}: {_line(figures)}")
    terminalreporter.line(f"together: {_line(_sum([figures for _, figures in found]))}")


def _line(figures: dict[str, Any]) -> str:
    manners = ", ".join(f"{count} {manner}" for manner, count in sorted(figures["by_manner"].items()))
    return (
        f"{figures['kills']} kills ({manners}), {figures['runs']} runs, {figures['resumed_runs']} resumed runs "
        f"({figures['resumes']} times), {figures['in_doubt_calls']} in-doubt calls, "
        f"{figures['repeated_effects']} repeated effects, {figures['lost_runs']} lost runs"
    )


def _sum(all_figures: list[dict[str, Any]]) -> dict[str, Any]:
    total: dict[str, Any] = {"by_manner": {}}
    for figures in all_figures:
        for manner, count in figures["by_manner"].items():
            total["by_manner"][manner] = total["by_manner"].get(manner, 0) + count
        for name, value in figures.items():
            if name != "by_manner":
                total[name] = total.get(name, 0) + value
    return total
