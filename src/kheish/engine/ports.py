"""What the engine needs from the rest of the house. The composition root hands it in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from kheish.core.values import value_class
from kheish.engine.codec import encode_entry
from kheish.engine.entries import Entry, Recorded, RouteRef
from kheish.engine.state import RunState, SessionState
from kheish.providers.protocol import Provider
from kheish.providers.terms import RouteTerms
from kheish.store.database import Transaction


@value_class(frozen=True, kw_only=True, slots=True)
class Transition:
    """One commit of one session: what happened and what it leads to."""

    session_id: str
    entries: tuple[Recorded, ...]
    runs: tuple[RunState, ...]
    """The state of every run the entries touched, after them (terminal ones included)."""
    session: SessionState
    """After the entries."""
    bodies: tuple[bytes, ...] = field(init=False, repr=False, compare=False)
    """The entries as the journal holds them, encoded once for all who need them."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "bodies", tuple(encode_entry(recorded.entry) for recorded in self.entries))


class Projection(Protocol):
    """Keeps a capability's tables in step with the journal, in the same transaction."""

    def apply(self, transaction: Transaction, transition: Transition) -> None:
        """Write this capability's rows and publish its feed events for ``transition``."""
        ...


class Observer(Protocol):
    """Watches what became durable: counts, measures, traces. It runs on the event loop and must be quick."""

    def committed(self, transition: Transition) -> None:
        """``transition`` is durable. Whatever this raises is logged and touches no run."""
        ...


@dataclass(slots=True)
class RecoveryCounts:
    """What the start met that no entry tells."""

    killed_processes: int = 0
    """Processes of an earlier daemon's tools that had survived it."""
    failed_sessions: int = 0
    """Sessions that could not go on."""


Also = Callable[[Transaction], None]
"""Writes in the same commit, before the entries."""
Meanwhile = Callable[[], None]
"""Called while the commit is under way; see `Database.write`."""


class Journal(Protocol):
    """Where entries live."""

    async def append(
        self, transition: Transition, *, also: Also | None = None, meanwhile: Meanwhile | None = None
    ) -> None:
        """Write all of ``transition`` or nothing; durable on return."""
        ...

    async def load(self, session_id: str) -> Sequence[Recorded]: ...


@value_class(frozen=True, kw_only=True, slots=True)
class Proposal:
    """A new entry somebody wants recorded, and the run it belongs to."""

    entry: Entry
    run_id: str | None = None


Rule = Callable[[SessionState, int], Sequence[Proposal]]
"""A capability's pure rule: (session state, now in ms) → entries. It raises a `Problem` to refuse. An empty result
changes nothing. Rules run inside the session's own task, so what they see cannot change under them."""


class Models(Protocol):
    """Finds the provider of a pinned route."""

    def provider_for(self, route: RouteRef) -> Provider:
        """Return the provider.

        Raises:
            Problem: the route is gone; the run fails naming it.
        """
        ...

    def refresh(self, route: RouteRef) -> bool:
        """The provider took the route's credential for none: get it anew. False: the route has no other one to get."""
        ...

    def terms_for(self, route: RouteRef) -> RouteTerms:
        """Return when to call again and what a call costs."""
        ...


class LiveEvents(Protocol):
    """Token deltas and other events that are never stored."""

    def publish_live(self, type: str, *, session_id: str, run_id: str, data: dict[str, object]) -> None: ...
