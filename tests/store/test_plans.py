"""What is asked of the runs is looked up, however many there are."""

from __future__ import annotations

import re
import sqlite3

from kheish.runs import store
from kheish.store.database import SqliteDatabase
from kheish.store.migrations import migrate

STATEMENTS = {
    name: text
    for name, text in vars(store).items()
    if isinstance(text, str) and text.lstrip().startswith(("SELECT", "INSERT INTO outputs"))
}
COUNTED = {"_COUNT", "_COUNTS", "_COUNT_ENDED_BEFORE"}
ENDING_AT_A_LIMIT = {"_NEWEST", "_BY_LIVENESS"}
"""They go through the runs in order, and not through all."""
ALL = re.compile(r"SCAN (runs|ahead|outputs)(?! USING INDEX runs_(live|queued))")


def goes_through_all(connection: sqlite3.Connection, text: str) -> bool:
    named = set(re.findall(r":(\w+)", text))
    numbered = len(set(re.findall(r"\?\d", text)))
    found: list[str] = []
    for live in (0, 1):
        values = {name: live if name == "live" else "[]" for name in named} if named else [1] * numbered
        found += [row["detail"] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}", values)]
    return any(map(ALL.match, found))


def test_no_statement_goes_through_all_runs_or_outputs_but_those_that_count() -> None:
    database = SqliteDatabase(None)
    database.run_offline(migrate)
    found = database.run_offline(
        lambda connection: {name for name, text in STATEMENTS.items() if goes_through_all(connection, text)}
    )
    database.close()

    assert {"_PAGE_ASC", "_OUTPUTS", "_INSERT_OUTPUT", "_LAST_NUMBER", "_LIVE_SESSIONS"} <= STATEMENTS.keys()
    assert found - {"_VIEW"} == COUNTED | ENDING_AT_A_LIMIT
