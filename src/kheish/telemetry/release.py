"""Which release runs."""

from __future__ import annotations


def release() -> str:
    """The version of this daemon."""
    from importlib.metadata import PackageNotFoundError, version  # late: slow to import, and a start asks nothing

    try:
        return version("kheish")
    except PackageNotFoundError:
        return "unknown"
