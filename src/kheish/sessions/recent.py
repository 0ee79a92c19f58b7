"""What views show of recent sessions, kept in step with what becomes durable: a run's answer needs no query."""

from __future__ import annotations

import sqlite3
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import orjson

from kheish.engine.ports import Transition

SHOWN_OUTPUTS = 100
"""The newest outputs in a session view; `GET .../events` has all of them."""
_SESSIONS = 256
_OUTPUT_BYTES = 64 * 1024
"""Of one session; one whose outputs are larger is read each time."""

OutputsIn = Callable[[Transition], Sequence[str] | None]
"""The outputs a commit adds, as JSON; None when that shows in the rows only."""
RowOf = Callable[[str], Mapping[str, object] | None]
"""What commits change of a session's row, as the last durable one left it; None when it is not known any more."""


@dataclass(slots=True)
class Shown:
    """A session's columns and its newest outputs, oldest first."""

    row: Mapping[str, object]
    outputs: deque[str]

    @property
    def waits(self) -> bool:
        """Its run waits for people; for what, the rows know."""
        return bool(self.row["pending_approvals"] or self.row["pending_questions"])

    def fragments(self) -> list[orjson.Fragment]:
        return [orjson.Fragment(output) for output in self.outputs]


@dataclass(slots=True)
class _Reading:
    """A query under way, and whether a commit has overtaken it."""

    overtaken: bool = False


class RecentSessions:
    """Bounded; whatever it does not have is read."""

    def __init__(self, outputs_in: OutputsIn, row_of: RowOf) -> None:
        self._outputs_in = outputs_in
        self._row_of = row_of
        self._shown: OrderedDict[str, Shown] = OrderedDict()
        self._readings: dict[str, list[_Reading]] = {}

    def find(self, session_id: str) -> Shown | None:
        """The session as it is now, if it is known."""
        shown = self._shown.get(session_id)
        if shown is not None:
            self._shown.move_to_end(session_id)
        return shown

    @contextmanager
    def reading(self, session_id: str) -> Iterator[Callable[[sqlite3.Row, Iterable[str]], None]]:
        """Wraps a query; hand what it found to the function that this gives, to have it remembered."""
        reading = _Reading()
        self._readings.setdefault(session_id, []).append(reading)

        def keep(row: sqlite3.Row, outputs: Iterable[str]) -> None:
            if not reading.overtaken:
                self._keep(session_id, Shown(row=dict(row), outputs=deque(outputs, SHOWN_OUTPUTS)))

        try:
            yield keep
        finally:
            self._readings[session_id].remove(reading)
            if not self._readings[session_id]:
                del self._readings[session_id]

    def committed(self, transition: Transition) -> None:
        """A session moved on durably."""
        session_id = transition.session_id
        self._overtake(session_id)
        shown = self._shown.get(session_id)
        # A reader may have seen the commit before we are told of it.
        if shown is None or cast("int", shown.row["journal_len"]) >= transition.entries[-1].offset:
            return
        del self._shown[session_id]
        added, row = self._outputs_in(transition), self._row_of(session_id)
        if added is None or shown.row["journal_len"] != transition.entries[0].offset - 1:
            return
        if row is None or row["journal_len"] != transition.entries[-1].offset:
            return
        shown.row = {**shown.row, **row}
        shown.outputs.extend(added)
        self._keep(session_id, shown)

    def forget(self, session_id: str) -> None:
        """Something else of its row was changed."""
        self._overtake(session_id)
        self._shown.pop(session_id, None)

    def _overtake(self, session_id: str) -> None:
        for reading in self._readings.get(session_id, ()):
            reading.overtaken = True

    def _keep(self, session_id: str, shown: Shown) -> None:
        if sum(map(len, shown.outputs)) > _OUTPUT_BYTES:
            return
        self._shown[session_id] = shown
        while len(self._shown) > _SESSIONS:
            self._shown.popitem(last=False)
