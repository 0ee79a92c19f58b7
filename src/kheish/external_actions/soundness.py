"""Are the records as they were signed? Whoever signed them is believed here: this finds damage."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from kheish.auth.audit_chain import Fault
from kheish.external_actions import store


def chains(connection: sqlite3.Connection) -> Iterator[tuple[str, int, Fault | None]]:
    """Yield the name of each bucket, its number of records and its first fault."""
    for raw in store.buckets(connection):
        bucket = raw.decode(errors="replace")
        chain = store.chain(connection, bucket)
        named = {record.key_id for record in chain.records}
        fault = chain.check(named if chain.checkpoint is None else {*named, chain.checkpoint.key_id})
        yield bucket, len(chain.records), fault
