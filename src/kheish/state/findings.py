"""What a check found: a bounded list, and counts of everything."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

from kheish.core.jsonvalue import JsonObject, JsonValue

MAX_LISTED = 200
"""Findings that are named; the rest are counted."""


class Severity(StrEnum):
    ERROR = "error"
    """Something is lost or cannot be used."""
    WARNING = "warning"
    """Everything is there, but somebody should look."""


@dataclass(slots=True)
class Findings:
    """Collects while the checks run."""

    checked: Counter[str] = field(default_factory=Counter)
    """How much of what was looked at."""
    _listed: dict[Severity, list[JsonValue]] = field(default_factory=lambda: {severity: [] for severity in Severity})
    _counts: Counter[Severity] = field(default_factory=Counter)

    def error(self, code: str, where: str, message: str, action: str) -> None:
        self._add(Severity.ERROR, code, where, message, action)

    def warning(self, code: str, where: str, message: str, action: str) -> None:
        self._add(Severity.WARNING, code, where, message, action)

    @property
    def ok(self) -> bool:
        """No errors; warnings pass."""
        return not self._counts[Severity.ERROR]

    def report(self) -> JsonObject:
        """The JSON report."""
        # Errors first: many warnings must not hide one.
        listed = [finding for severity in Severity for finding in self._listed[severity]][:MAX_LISTED]
        return {
            "ok": self.ok,
            "checked": dict(sorted(self.checked.items())),
            "error_count": self._counts[Severity.ERROR],
            "warning_count": self._counts[Severity.WARNING],
            "findings": listed,
            "findings_left_out": sum(self._counts.values()) - len(listed),
        }

    def _add(self, severity: Severity, code: str, where: str, message: str, action: str) -> None:
        self._counts[severity] += 1
        if len(self._listed[severity]) < MAX_LISTED:
            self._listed[severity].append(
                {"severity": severity.value, "code": code, "where": where, "message": message, "action": action}
            )
