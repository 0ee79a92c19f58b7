"""The daemon's own instructions to the model, most stable first."""

from __future__ import annotations

from pathlib import Path

_BASE = (
    "You are an agent executed by a durable runtime. Work on the task with the tools you have and answer with the "
    "result. Tool calls may need a human's approval and may be denied; when one is denied, say so or find another way. "
    "A result that says the daemon restarted means the call may already have taken effect: check before repeating it."
)


def system_prompt(workspace_root: Path) -> tuple[str, ...]:
    """The instruction sections for every model call."""
    return (_BASE, f"The workspace root is {workspace_root}. Relative paths start there; files outside it are closed.")
