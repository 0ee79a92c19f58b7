"""What the store counts of itself."""

from __future__ import annotations

from kheish.core.values import value_class
from kheish.store.distribution import Spread


@value_class(frozen=True, kw_only=True, slots=True)
class WriteStatistics:
    """Counted since start."""

    commits: int
    units: int
    failed_units: int
    """Units the store could not write; a unit that its own rule refused is not one of them."""
    failed_reads: int
    """Queries the store could not answer."""
    last_failure: StoreFailure | None
    """The newest refused write or read."""
    writable: bool
    """The newest commit went through."""
    commit_seconds: Spread
    """From the begin of each transaction to its durable end, failed ones included."""
    commit_units: Spread
    """How many units shared each commit."""


@value_class(frozen=True, kw_only=True, slots=True)
class StoreFailure:
    """One time the store refused."""

    code: str
    """store_unavailable or store_rejected for a write, store_unreadable for a read."""
    message: str
    """In the database's own words."""
    at_ms: int
