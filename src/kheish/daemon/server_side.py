"""The door from the command line to the server side, which is too much to import for a command that only asks."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def serve_main() -> Callable[..., int]:
    """`kheish.daemon.serve.main`, imported now and at no more cost than it must have."""
    # Imports make hardly any garbage, and looking for it again and again is a seventh of a start. `serve` turns the
    # collector on when the daemon is ready.
    gc.disable()
    # Nothing here validates with a plugin, and to find none pydantic reads the metadata of all that is installed.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # structlog imports it wherever it is installed, for tracebacks with local variables: our logs show none (`logs`).
    with _taken_for_missing("rich"):
        from kheish.daemon.serve import main
    return main


@contextmanager
def _taken_for_missing(name: str) -> Iterator[None]:
    """Whoever imports this optional package does without it."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # what the import system itself writes for "not there"
    try:
        yield
    finally:
        del sys.modules[name]
