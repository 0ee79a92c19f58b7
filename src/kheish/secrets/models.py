"""Wire types of secrets. Nothing here ever carries a secret towards a reader."""

from __future__ import annotations

from pydantic import ConfigDict, Field, JsonValue

from kheish.auth.slots import SlotMode, SlotProvider
from kheish.http.requests import Asked
from kheish.http.responses import Described


class SetSecret(Asked):
    """A whole record; an existing slot is rotated."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    slot_id: str
    provider: str = Field(description=f"One of {', '.join(SlotProvider)}.")
    mode: str = Field(description=f"One of {', '.join(SlotMode)}.")
    state: dict[str, JsonValue] = Field(repr=False)
    """generic: `value`. The others: `api_key`; open_ai also `organization` and `project`."""
    updated_at_ms: int | None = None
    """Accepted for symmetry; the daemon writes its own time."""


class SlotStatus(Described):
    """What is shown of a slot."""

    slot_id: str
    provider: str
    mode: str
    summary: str
    updated_at_ms: int
    details: dict[str, JsonValue] | None = None


class Accepted(Described):
    """Whether there was something to remove."""

    accepted: bool
