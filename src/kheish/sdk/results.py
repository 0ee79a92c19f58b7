"""What a run came to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kheish.sdk.errors import RunFailed

if TYPE_CHECKING:
    from kheish.sdk.types import OutputRecord, RunView

OVER = frozenset({"completed", "failed", "interrupted", "cancelled"})
UNSUCCESSFUL = frozenset({"failed", "interrupted", "cancelled"})
WAITING = frozenset({"waiting_for_approval", "waiting_for_user_question"})


def is_over(run: RunView) -> bool:
    """Whether the run's status is final."""
    return run.status in OVER


def is_waiting(run: RunView) -> bool:
    """Whether the run waits for a human."""
    return run.status in WAITING


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """A run that is over."""

    run: RunView

    @property
    def run_id(self) -> str:
        return self.run.run_id

    @property
    def status(self) -> str:
        """completed, failed, interrupted or cancelled."""
        return self.run.status

    @property
    def outputs(self) -> tuple[OutputRecord, ...]:
        return self.run.outputs

    @property
    def output_text(self) -> str:
        """The plain text of the last output; empty when there is none."""
        return self.run.outputs[-1].content if self.run.outputs else ""

    @property
    def error(self) -> str | None:
        return self.run.error


def result_of(run: RunView, *, raise_on_failure: bool) -> Result:
    """The result of a run that is over.

    Raises:
        RunFailed: it did not complete, and that shall raise.
    """
    if raise_on_failure and run.status in UNSUCCESSFUL:
        raise RunFailed(run)
    return Result(run=run)
