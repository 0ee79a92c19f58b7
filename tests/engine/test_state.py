"""A run's state holds its fields and nothing else, whatever happened to it."""

from __future__ import annotations

import pytest

from kheish.engine import entries as e
from kheish.engine.entries import Recorded
from kheish.engine.state import RunState, accept, apply
from tests.engine.test_codec import ENTRIES


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: type(entry).__name__)
def test_an_entry_changes_fields_that_there_are_and_not_the_state_before(entry: e.Entry) -> None:
    """States are copied without their constructor, which would refuse a field that it does not know."""
    accepted = ENTRIES[0]
    assert isinstance(accepted, e.InputAccepted)
    before = accept(Recorded(session_id="s", offset=1, at_ms=1, run_id="run-1", entry=accepted), accepted)
    as_it_was = RunState(**vars(before))
    after = apply(before, Recorded(session_id="s", offset=2, at_ms=2, run_id="run-1", entry=entry))

    assert RunState(**vars(after)) == after
    assert (after.last_offset, after.updated_at_ms) == (2, 2)
    assert before == as_it_was
