"""Is the trail of external actions whole?"""

from __future__ import annotations

import sqlite3

from kheish.external_actions.soundness import chains
from kheish.state.findings import Findings

_ACTION = (
    "The run does nothing more; the others are not affected. Look with `kheish-daemon audit verify`, and restore a "
    "backup to get its records back."
)


def check_actions(connection: sqlite3.Connection, findings: Findings) -> None:
    """Name the first bad record of each bucket."""
    for bucket, records, fault in chains(connection):
        findings.checked["external_actions"] += records
        if fault is not None:
            findings.error("external_actions_damaged", bucket, str(fault), _ACTION)
