"""What is shown of recent sessions follows commits, and is read anew where that cannot be sure."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

import pytest

from kheish.engine import entries as e
from kheish.engine.entries import Recorded
from kheish.engine.ports import Transition
from kheish.engine.state import SessionState
from kheish.sessions.recent import RecentSessions

SESSION = "s"


def commit(first: int, last: int) -> Transition:
    """A commit of the entries from ``first`` to ``last``."""
    entries = tuple(
        Recorded(session_id=SESSION, offset=offset, at_ms=offset, run_id=None, entry=e.Woken())
        for offset in range(first, last + 1)
    )
    session = SessionState(session_id=SESSION, next_offset=last + 1)
    return Transition(session_id=SESSION, entries=entries, runs=(), session=session)


def row(**columns: object) -> sqlite3.Row:
    """A row with these columns."""
    connection = sqlite3.connect(":memory:")
    connection.row_factory = sqlite3.Row
    named = ", ".join(f":{name} AS {name}" for name in columns)
    found: sqlite3.Row = connection.execute(f"SELECT {named}", columns).fetchone()
    connection.close()
    return found


def shown(left: Mapping[str, object] | None) -> RecentSessions:
    """Sessions of which one has been read with two entries; of it, commits leave ``left``."""
    recent = RecentSessions(lambda transition: ["{}"], lambda session_id: left)
    with recent.reading(SESSION) as keep:
        keep(row(session_id=SESSION, journal_len=2, status="idle", route_policy="{}"), ["[]"])
    return recent


def test_a_commit_changes_the_columns_its_projection_left_and_adds_its_outputs() -> None:
    recent = shown({"journal_len": 4, "status": "running"})

    recent.committed(commit(3, 4))

    found = recent.find(SESSION)
    assert found is not None
    assert found.row == {"session_id": SESSION, "journal_len": 4, "status": "running", "route_policy": "{}"}
    assert list(found.outputs) == ["[]", "{}"]


@pytest.mark.parametrize(
    ("left", "transition"),
    [
        pytest.param(None, commit(3, 4), id="the row is not remembered any more"),
        pytest.param({"journal_len": 5, "status": "idle"}, commit(3, 4), id="the row is of a later commit"),
        pytest.param({"journal_len": 3, "status": "idle"}, commit(3, 4), id="the row is of an earlier commit"),
        pytest.param({"journal_len": 5, "status": "idle"}, commit(4, 5), id="a commit in between was missed"),
    ],
)
def test_a_session_that_commits_are_not_sure_of_is_read_anew(
    left: Mapping[str, object] | None, transition: Transition
) -> None:
    recent = shown(left)

    recent.committed(transition)

    assert recent.find(SESSION) is None


def test_a_commit_that_the_query_has_seen_changes_nothing() -> None:
    recent = shown(None)

    recent.committed(commit(1, 2))

    found = recent.find(SESSION)
    assert found is not None
    assert found.row["journal_len"] == 2
