"""Whatever a journal holds, its export is lines in the documented envelope."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from kheish.core.jsonvalue import decode
from kheish.engine import entries as e
from kheish.engine.entries import Entry, Recorded
from kheish.state.export import journal_records, lines
from tests.engine.test_codec import ENTRIES

EVENTS = {
    "input_received",
    "message_appended",
    "tool_call_started",
    "tool_call_finished",
    "user_question_requested",
    "user_question_resolved",
    "compaction_boundary",
}
UNSHOWN = (
    e.RunStarted | e.ModelFailed | e.CallsDecided | e.InDoubtAsked | e.ApprovalsResolved | e.Woken | e.Resumed
    | e.StopRequested | e.RunEnded | e.SessionEnded
)  # fmt: skip
"""Entries that are no event of the envelope: their run's events tell them."""

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
results = st.builds(e.ToolFinished, call_id=st.text(max_size=9), name=st.text(max_size=9), output=values)
answers = st.builds(e.RunEnded, status=st.just(e.RunStatus.COMPLETED), output=st.text(max_size=30))
doubts = st.builds(
    lambda text: e.InDoubtAsked(
        requests=({"id": "ask-1", "scope": "tool", "tool_name": text, "tool_call_id": "call-1", "reason": text},)
    ),
    st.text(max_size=9),
)
# The golden request in doubt is shorter than any that was ever recorded.
golden = st.sampled_from([entry for entry in ENTRIES if not isinstance(entry, e.InDoubtAsked)])
entries = golden | results | answers | doubts


@given(st.lists(entries, max_size=25), st.text(min_size=1, max_size=20))
@settings(deadline=None)
def test_any_journal_is_exported_in_valid_envelopes(chosen: list[Entry], session_id: str) -> None:
    journal = [
        Recorded(session_id=session_id, offset=offset, at_ms=offset, run_id="run-1", entry=entry)
        for offset, entry in enumerate(chosen, start=1)
    ]
    written = list(lines(session_id, journal_records(journal)))
    told = [json.loads(line) for line in written]
    found = {kind: [one["record"] for one in told if one["record"]["type"] == kind] for kind in ("event", "output")}

    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in written)
    assert {(one["version"], one["session_id"]) for one in told} <= {(2, session_id)}
    assert {one["record"]["type"] for one in told} <= {"event", "permission_audit", "output", "checkpoint"}
    assert {one["entry"]["event"]["type"] for one in found["event"]} <= EVENTS
    shown = [recorded for recorded in journal if not isinstance(recorded.entry, UNSHOWN)]
    assert [one["entry"]["offset"] for one in found["event"]] == [recorded.offset for recorded in shown]
    assert all({"plugin", "address", "payload_digest"} <= one["output"].keys() for one in found["output"])
    assert all(decode(line) == one for line, one in zip(written, told, strict=True))
