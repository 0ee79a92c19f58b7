"""Which release runs."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def release() -> str:
    """The version of this daemon."""
    try:
        return version("kheish")
    except PackageNotFoundError:
        return "unknown"
