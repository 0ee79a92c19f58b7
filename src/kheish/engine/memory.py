"""What a session's task keeps in memory: what is durable, and what is about to be."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from kheish.engine.context import Transcript
from kheish.engine.entries import Recorded
from kheish.engine.journal import JournalDamaged
from kheish.engine.ports import Journal
from kheish.engine.state import RunState, SessionState, advance

_FOLDED_AT_ONCE = 500
"""Entries; about ten milliseconds."""


@dataclass(slots=True)
class SessionMemory:
    """What a recent session keeps in memory; all of it can be folded from the journal again."""

    state: SessionState
    transcript: Transcript
    """Of what is durable."""
    last_at_ms: int = 0


async def remembered(journal: Journal, session_id: str) -> SessionMemory:
    """Fold a session's journal.

    Raises:
        JournalDamaged: an entry cannot be read or makes no sense.
    """
    entries = await journal.load(session_id)
    if len(entries) < _FOLDED_AT_ONCE:
        return _folded(session_id, entries)
    # A long one takes a while: the other sessions go on.
    return await asyncio.to_thread(_folded, session_id, entries)


def _folded(session_id: str, entries: Sequence[Recorded]) -> SessionMemory:
    memory = SessionMemory(state=SessionState(session_id=session_id), transcript=Transcript())
    for recorded in entries:
        try:
            memory.state = advance(memory.state, recorded)
            memory.transcript.extend(recorded)
        # Well-formed JSON that no release wrote: whatever it breaks, the entry is what is wrong.
        except Exception as error:
            raise JournalDamaged(session_id, recorded.offset) from error
        memory.last_at_ms = recorded.at_ms
    return memory


@dataclass(slots=True)
class Buffer:
    """Entries that are decided but not yet durable; committed before the next effect."""

    entries: list[Recorded] = field(default_factory=list)
    runs: dict[str, RunState] = field(default_factory=dict)
    _ahead: Transcript | None = None
    """The transcript with these entries, once somebody has asked for it."""

    def append(self, recorded: Recorded) -> None:
        self.entries.append(recorded)
        if self._ahead is not None:
            self._ahead.extend(recorded)

    def copy(self) -> Buffer:
        """What is in it now; entries that follow go to one of the two only."""
        return Buffer(entries=list(self.entries), runs=dict(self.runs))

    def window(self, memory: SessionMemory) -> Transcript:
        """The conversation as it will be once the buffer is durable."""
        if not self.entries:
            return memory.transcript
        if self._ahead is None:
            ahead = memory.transcript.copy()
            for recorded in self.entries:
                ahead.extend(recorded)
            self._ahead = ahead
        return self._ahead

    def settle(self, memory: SessionMemory) -> None:
        """The entries are durable: the transcript takes them in."""
        if self._ahead is not None:
            memory.transcript = self._ahead
            return
        for recorded in self.entries:
            memory.transcript.extend(recorded)
