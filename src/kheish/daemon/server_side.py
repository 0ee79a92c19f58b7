"""The door from the command line to the server side, which is too much to import for a command that only asks.

Most of a start is imports. What libraries do in theirs that nothing here has a use for is left out, in this one place.
"""

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
    # structlog imports rich wherever it is installed, for tracebacks with local variables: our logs show none (`logs`).
    with _taken_for_missing("rich"):
        from kheish.daemon.registry import routers
        from kheish.daemon.serve import main

        routers()
    return main


@contextmanager
def _taken_for_missing(*names: str) -> Iterator[None]:
    """Whoever imports one of these optional packages does without it."""
    missing = [name for name in names if name not in sys.modules]
    # What the import system itself writes for "not there".
    sys.modules.update(dict.fromkeys(missing))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]
