"""Are the records of external actions as they were signed? Whoever signed them is believed here: this finds damage."""

from __future__ import annotations

import sqlite3

from kheish.external_actions import store
from kheish.state.findings import Findings

_ACTION = (
    "The run does nothing more; the others are not affected. Look with `kheish-daemon audit verify`, and restore a "
    "backup to get its records back."
)


def check_actions(connection: sqlite3.Connection, findings: Findings) -> None:
    """Name the first bad record of each bucket."""
    for raw in store.buckets(connection):
        bucket = raw.decode(errors="replace")
        chain = store.chain(connection, bucket)
        findings.checked["external_actions"] += len(chain.records)
        named = {record.key_id for record in chain.records}
        fault = chain.check(named if chain.checkpoint is None else {*named, chain.checkpoint.key_id})
        if fault is not None:
            findings.error("external_actions_damaged", bucket, str(fault), _ACTION)
